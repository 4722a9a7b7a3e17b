#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The daemon as a process: start, exit status, signals, crash and return.
Argument: the program."""
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

sys.dont_write_bytecode = True
from daemon import Daemon, Viewer

PROGRAM = sys.argv.pop(1)
TEST = ["--backend", "test:fps=50,width=64,height=48,chunk=5,chunk_ms=10"]
PROMPT = {"prompt": "a red kite", "seed": 42}


def run(*arguments, **environment):
    done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=30, env={**os.environ, **environment})
    return done.returncode, done.stdout, done.stderr


class Start(unittest.TestCase):
    def test_wrong_settings_end_with_78(self):
        for arguments, says in (
            (["--bogus", "1"], "no flag --bogus"),
            (["--listen", "0.0.0.0:1"], "--insecure"),
            (["--cq-level", "99"], "from 4 to 52"),
            (["--config", "/nonexistent"], "No such file"),
            (["--listen", "127.0.0.1:0", "--backend", "test:bogus=1"], "no option 'bogus'"),
            (["--listen", "127.0.0.1:0", "--backend", "test", "--state-dir", "/proc/nowhere"], "state_dir"),
            (["--listen", "127.0.0.1:0", "--backend", "test", "--web-root", "/nowhere"], "[server] web_root: /nowhere"),
            (["--listen", "127.0.0.1:0", "--backend", "cpu", "--model", "/nowhere"], "/nowhere/manifest.json"),
            (["--listen", "127.0.0.1:0", "--backend", "cpu", "--model", PROGRAM], "manifest.json: Not a directory"),
        ):
            status, _, error = run(*arguments)
            self.assertEqual(status, 78, arguments)
            self.assertIn(says, error)

    def test_folders_above_the_state_are_made(self):
        with tempfile.TemporaryDirectory() as top:
            state = top + "/.local/state/lightforced"
            daemon = Daemon(PROGRAM, *TEST, "--state-dir", state)
            daemon.wait_ready()
            daemon.request("POST", "/v1/sessions", PROMPT)
            # Beside the journal its next version may stand for a moment, as .tmp.
            self.assertEqual(len([name for name in os.listdir(state + "/sessions") if name.endswith(".json")]), 1)
            self.assertEqual(daemon.stop()[0], 0)

    def test_a_taken_port_is_named(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = "127.0.0.1:%d" % taken.getsockname()[1]
            status, _, error = run("--listen", address, *TEST)
        self.assertEqual(status, 1)
        self.assertIn(address, error)

    def test_check_config_prints_origins(self):
        status, out, _ = run("--check-config", "--cq-level", "30", LIGHTFORCED_VIDEO_BITRATE_KBPS="900")
        self.assertEqual(status, 0)
        self.assertIn('"origin": "command line"', out)
        self.assertIn('"origin": "environment LIGHTFORCED_VIDEO_BITRATE_KBPS"', out)

    def test_example_and_manual_are_those_of_the_table(self):
        folder = os.environ["LIGHTFORCED_ROOT"] + "/conf/"
        with open(folder + "lightforced.conf") as example, open(folder + "lightforced.conf.5") as manual:
            status, out, _ = run("--example-config")
            self.assertEqual((status, out), (0, example.read()), "lightforced --example-config > conf/lightforced.conf")
            listed = manual.read()
        for section, keys in json.loads(run("--check-config")[1]).items():
            self.assertIn(f".Ss [{section}]", listed)
            for name in keys:
                self.assertIn(f".It Cm {name} No = ", listed)

    def test_the_port_opens_before_the_model_is_loaded(self):
        daemon = Daemon(PROGRAM, "--backend", "test:load_ms=600000")
        status, answer = daemon.request("GET", "/readyz")
        self.assertEqual((status, answer["code"]), (503, "model_loading"))
        self.assertIn("total_bytes", answer)
        self.assertEqual(daemon.request("POST", "/v1/sessions", PROMPT)[0], 503)
        self.assertEqual(daemon.request("GET", "/healthz")[0], 200)
        daemon.kill()

    def test_a_model_that_does_not_load_ends_it(self):
        status, _, error = run("--listen", "127.0.0.1:0", "--backend", "test:fail_load=1")
        self.assertEqual(status, 1)
        self.assertIn("fail_load", error)

    def test_a_gpu_that_is_not_there_ends_it(self):
        status, _, error = run("--listen", "127.0.0.1:0", "--backend", "cuda", CUDA_VISIBLE_DEVICES="")
        self.assertEqual(status, 1)
        self.assertRegex(error, "the model cannot be loaded: .*use backend cpu")

    def test_the_service_manager_is_told(self):
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(folder + "/notify")
            manager.settimeout(30)
            daemon = Daemon(PROGRAM, *TEST, environment={"NOTIFY_SOCKET": folder + "/notify", "WATCHDOG_USEC": "2000000"})
            words = []
            while not any(w.startswith("WATCHDOG=1") for w in words) or not any("sessions" in w for w in words):
                words.append(manager.recv(512).decode())
            self.assertTrue(words[0].startswith("READY=1"))
            daemon.process.send_signal(signal.SIGHUP)
            while not any(w.startswith("RELOADING=1") for w in words):
                words.append(manager.recv(512).decode())
            daemon.process.send_signal(signal.SIGTERM)
            while not any(w.startswith("STOPPING=1") for w in words):
                words.append(manager.recv(512).decode())
            self.assertEqual(daemon.process.wait(30), 0)
            daemon.process.stderr.close()


class Signals(unittest.TestCase):
    def test_term_finishes_the_chunk(self):
        daemon = Daemon(PROGRAM, *TEST)
        daemon.wait_ready()
        session = daemon.request("POST", "/v1/sessions", PROMPT)[1]
        viewer = Viewer(daemon, session["id"])
        self.addCleanup(viewer.close)
        viewer.until("frame")
        ended = []
        thread = threading.Thread(target=lambda: ended.append(daemon.stop()))
        thread.start()
        viewer.until("notice", code="draining")
        last, message = None, viewer.next()
        while message["type"] != "close":
            last = message if message["type"] == "frame" else last
            message = viewer.next()
        thread.join()
        self.assertEqual(message["code"], 1001)
        if last:
            self.assertTrue(last["flags"] & 8, "the last frame is not the last of its chunk")
        self.assertEqual(ended[0][0], 0)

    def test_a_second_signal_ends_at_once(self):
        daemon = Daemon(PROGRAM, "--backend", "test:load_ms=60000")
        daemon.wait_stage("weights")  # from inside what cannot be broken off
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_line("shutting down")
        self.assertEqual(daemon.end(signal.SIGTERM)[0], 1)

    def test_the_time_for_shutdown_is_kept(self):
        daemon = Daemon(PROGRAM, "--backend", "test:load_ms=60000", "--shutdown-s", "1")
        daemon.wait_stage("weights")
        status, log = daemon.stop()
        self.assertEqual(status, 0)
        self.assertIn("ended without it", log)

    def test_hup_takes_over_or_keeps(self):
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
            file.write("[sessions]\nprompt_bytes_max = 100\n")
            file.flush()
            daemon = Daemon(PROGRAM, *TEST, "--config", file.name)
            daemon.wait_ready()
            long = {"prompt": "x" * 60}
            file.seek(0)
            file.write("[sessions]\nprompt_bytes_max = 050\n")
            file.flush()
            daemon.process.send_signal(signal.SIGHUP)
            self.assertIn("100 -> 50", daemon.wait_line("reload:"))
            daemon.wait_line("settings read again")
            self.assertEqual(daemon.request("POST", "/v1/sessions", long)[1]["code"], "prompt_too_long")
            file.seek(0)
            file.write("[sessions]\nprompt_bytes_mx = 100\n\n")
            file.flush()
            daemon.process.send_signal(signal.SIGHUP)
            self.assertIn("did you mean [sessions] prompt_bytes_max?", daemon.wait_line("stay as they were"))
            self.assertEqual(daemon.stop()[0], 0)

    def test_a_lost_device_ends_it_for_a_restart(self):
        with tempfile.TemporaryDirectory() as folder:
            daemon = Daemon(PROGRAM, TEST[0], TEST[1] + ",broken_at=3", "--state-dir", folder)
            daemon.wait_ready()
            session = daemon.request("POST", "/v1/sessions", PROMPT)[1]
            self.assertEqual(daemon.process.wait(30), 1)
            daemon.process.stderr.close()
            daemon = Daemon(PROGRAM, *TEST, "--state-dir", folder)
            daemon.wait_ready()
            self.assertEqual(daemon.request("GET", "/v1/sessions/" + session["id"])[0], 200)
            daemon.stop()


class Crash(unittest.TestCase):
    def test_a_session_survives_kill_9(self):
        with tempfile.TemporaryDirectory() as folder:
            daemon = Daemon(PROGRAM, *TEST, "--state-dir", folder)
            daemon.wait_ready()
            session = daemon.request("POST", "/v1/sessions", PROMPT)[1]
            stream = "/v1/sessions/" + session["id"]
            viewer = Viewer(daemon, session["id"])
            self.addCleanup(viewer.close)
            viewer.until("frame")
            status, receipt = daemon.request("POST", stream + "/prompts", {"text": "at night"})
            self.assertEqual(status, 202)
            last = viewer.until("frame", revision=receipt["revision"])
            daemon.kill()
            try:
                while True:
                    message = viewer.next()
                    last = message if message["type"] == "frame" else last
            except OSError:
                pass
            daemon = Daemon(PROGRAM, *TEST, "--state-dir", folder, port=daemon.port)
            daemon.wait_ready()
            status, back = daemon.request("GET", stream)
            self.assertEqual(status, 200)
            self.assertEqual(back["prompt"], "at night")
            viewer = Viewer(daemon, session["id"], since=last["seq"])
            self.addCleanup(viewer.close)
            self.assertFalse(viewer.until("hello")["resumed"])
            config = viewer.until("video.config")
            frame = viewer.until("frame")
            self.assertEqual(config["epoch"], last["epoch"] + 1)
            self.assertEqual(frame["epoch"], config["epoch"])
            self.assertTrue(frame["flags"] & 1)
            self.assertEqual(frame["revision"], receipt["revision"])
            self.assertGreater(frame["seq"], last["seq"])
            self.assertGreater(frame["chunk"], last["chunk"])
            self.assertEqual(daemon.stop()[0], 0)

    def test_a_torn_journal_is_moved_aside(self):
        with tempfile.TemporaryDirectory() as folder:
            daemon = Daemon(PROGRAM, *TEST, "--state-dir", folder)
            daemon.wait_ready()
            kept = daemon.request("POST", "/v1/sessions", PROMPT)[1]
            daemon.kill()
            with open(folder + "/sessions/s_torn.json", "w") as file:
                file.write('{"version":1,"id":"s_to')
            daemon = Daemon(PROGRAM, *TEST, "--state-dir", folder)
            self.assertEqual(1, sum("s_torn.json" in line for line in daemon.lines))
            daemon.wait_ready()
            self.assertEqual(daemon.request("GET", "/v1/sessions/" + kept["id"])[0], 200)
            self.assertEqual(daemon.request("GET", "/v1/sessions/s_torn")[0], 404)
            self.assertTrue(os.path.exists(folder + "/sessions/s_torn.json.bad"))
            daemon.stop()


if __name__ == "__main__":
    unittest.main(verbosity=2)
