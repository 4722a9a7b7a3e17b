#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the page says when things go wrong: the real daemon with faults of its test picture on demand.

    test_states.py PROGRAM"""
import signal
import sys

from browser import Browser, until
from daemon import Daemon
from viewer import Viewer, check, run


def says(viewer, where, *words):
    """The message at the foot or in place of the picture holds all these words."""
    until(f"{words} said", lambda: all(word in viewer.page.text_content(where) for word in words))


def loading(program, browser):
    """Opened while the model loads: the page shows how far, then starts by itself."""
    with Daemon(program, "--backend", "test:load_ms=3000") as daemon:
        daemon.start(wait=False)
        viewer = Viewer(browser, daemon.url)
        viewer.until_state("loading")
        says(viewer, "#full-message", "Loading the model", "starts by itself")
        words = "a lighthouse while the model loads"
        viewer.send(words)
        viewer.until_live()
        check("what was typed meanwhile begins the film", viewer.stats()["prompts"][0]["text"] == words)
        daemon.kill()
        daemon.start(wait=False)
        viewer.until_state("loading")
        viewer.until_live()
        viewer.close()


def late(program, browser):
    """Every fourth chunk takes long: the last picture stays, the page says which chunk is late."""
    with Daemon(program, "--backend", "test:slow_every=4,slow_ms=4000") as daemon:
        daemon.start()
        viewer = Viewer(browser, daemon.url)
        viewer.until_state("late")
        says(viewer, "#foot", "The next chunk is late", "The connection is fine")
        check("the last picture stays", max(viewer.look()["grey"]) > 0)
        viewer.until_state("live")
        viewer.close()


def failed(program, browser):
    """A chunk fails: the page says so, and starts again with the same words and seed."""
    with Daemon(program, "--backend", "test:fail_at=3") as daemon:
        daemon.start()
        viewer = Viewer(browser, daemon.url)
        viewer.until_state("failed")
        says(viewer, "#full-message", "Stopped by an error in the server", "Other streams were not touched")
        seed, session = viewer.page.text_content("#seed-value"), viewer.stats()["session"]
        viewer.page.click("#full-message .btn.pri")
        until("another session", lambda: viewer.page.evaluate("window.lightforced?.stats().session") not in (None, session))
        until("the same seed", lambda: viewer.page.text_content("#seed-value") == seed)
        viewer.close()


def connection_lost(program, browser):
    """The socket breaks and comes back: the film goes on where it was, without a key frame."""
    with Daemon(program, "--backend", "test") as daemon:
        daemon.start()
        for query in ("", "?player=mse"):
            viewer = Viewer(browser, daemon.url + "/" + query)
            viewer.until_live()
            before = viewer.stats()
            viewer.page.evaluate("lightforced.session().socket.socket.close()")
            viewer.until_state("reconnecting")
            viewer.until_live()
            after = viewer.stats()
            check("nothing was missed", after["dropped"] == before["dropped"])
            check("it was the same film", after["epoch"] == before["epoch"] and after["seq"] > before["seq"])
            viewer.close()


def hidden(program, browser):
    """A hidden tab gets no frames; shown again it comes back at the newest picture."""
    with Daemon(program, "--backend", "test") as daemon:
        daemon.start()
        viewer = Viewer(browser, daemon.url)
        viewer.until_live()
        turn = "(hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
        turn += " document.dispatchEvent(new Event('visibilitychange')); }"
        viewer.page.evaluate(turn, True)
        other = Viewer(browser, daemon.url)
        other.until_more_frames(40)
        behind = viewer.stats()["seq"]
        other.until_more_frames(30)
        check("the hidden tab stood still", viewer.stats()["seq"] == behind)
        viewer.page.evaluate(turn, False)
        until("the newest picture", lambda: viewer.stats()["seq"] > behind + 30)
        viewer.until_live()
        viewer.close()
        other.close()


def draining(program, browser):
    """SIGTERM: the page says that the server restarts, and comes back."""
    with Daemon(program, "--backend", "test") as daemon:
        daemon.start()
        viewer = Viewer(browser, daemon.url)
        viewer.until_live()
        session = viewer.stats()["session"]
        daemon.process.send_signal(signal.SIGTERM)
        viewer.until_state("draining")
        says(viewer, "#foot", "The server is restarting")
        check("it ended in good order", daemon.process.wait(60) == 0)
        daemon.start()
        viewer.until_live()
        check("the same session", viewer.stats()["session"] == session)
        viewer.close()


def fastest(program, browser):
    """A session made as fast as the engine can: the page skips, it does not fall behind for ever."""
    with Daemon(program, "--backend", "test:chunk_ms=60") as daemon:
        daemon.start()
        status, state = daemon.answer("POST", "/v1/sessions", {"prompt": "a kite at noon", "pace": "max"})
        check("made", status == 201)
        viewer = Viewer(browser, f"{daemon.url}/s/{state['id']}")
        viewer.until_live()
        viewer.until_more_frames(60)
        # Twelve times real time: a page that played it all would be minutes behind by now.
        viewer.send_until_seen("a kite at night")
        viewer.close()


def main():
    program = sys.argv[1]
    with Browser() as browser:
        for test in (loading, late, failed, connection_lost, hidden, draining, fastest):
            run(test.__name__, test, program, browser)
        check(f"no errors in the page: {browser.errors}", not browser.errors)
    print("passed")


if __name__ == "__main__":
    main()
