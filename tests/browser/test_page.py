#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The viewer page against the real daemon, in a real browser.

    test_page.py PROGRAM test            the test picture: everything the page does
    test_page.py PROGRAM demo [MODEL]    a model on the CPU: moves, and turns with the words

Facts are waited for, never timed. PROGRAM is a built lightforced."""
import os
import sys
import urllib.parse

from browser import ROOT, Browser, until
from daemon import Daemon
from viewer import Viewer, check, difference, run

LAN_NAME = "lightforced-test.lan"


def moves_and_turns(viewer):
    """The picture moves; other words change it, and the receipt says when that was seen here."""
    viewer.until_live()
    viewer.until_moving()
    before = viewer.look()["mean"]
    words = "a white bird glides left over alpine peaks at night"
    prompt = viewer.send_until_seen(words)
    check("the receipt says after how many seconds", prompt["delay_ms"] > 0)
    check("the receipt is on the page", "seen" in viewer.text("#receipt"))
    check("the slate names the words", viewer.text("#slate .words") == words)
    check("the words stay in the line", viewer.page.input_value("#words") == words)
    check("the film names the words", "alpine peaks" in viewer.page.text_content("#track"))
    until("another colour", lambda: difference(before, viewer.look()["mean"]) > 2)
    viewer.until_moving()


def address_and_second_tab(browser, daemon, viewer):
    """/ becomes /s/ID; a reload and a second tab join the same session."""
    session = viewer.stats()["session"]
    check("the address names the session", urllib.parse.urlparse(viewer.page.url).path == f"/s/{session}")
    other = Viewer(browser, daemon.url)
    other.until_live()
    check("the second tab is in the same session", other.stats()["session"] == session)
    until("two viewers in the bar", lambda: viewer.text("#viewers").split()[0] == "2")
    viewer.page.reload()
    until("the page's modules", lambda: viewer.page.evaluate("!!window.lightforced"))
    viewer.until_live()
    check("after a reload as well", viewer.stats()["session"] == session)
    words = "a green kite dances right above rolling hills"
    other.send_until_seen(words)
    until("the other tab turns too", lambda: viewer.stats()["revision"] == other.stats()["revision"])
    check("and lists the words as somebody else's", not [p for p in viewer.stats()["prompts"] if p["text"] == words and p["mine"]])
    other.close()
    check("one session on the server", len(daemon.answer("GET", "/v1/sessions")[1]["sessions"]) == 1)


def modes(viewer):
    """Every mode the server has can be chosen in the shelf; cut starts a new epoch."""
    page = viewer.page
    page.click("#mode")
    names = page.eval_on_selector_all("#shelf .m b", "(nodes) => nodes.map((node) => node.textContent)")
    capabilities = page.evaluate("lightforced.store.get('capabilities').modes.map((mode) => mode.name)")
    check(f"the shelf has the server's modes: {names}", names == capabilities)
    page.keyboard.press("ArrowRight")
    check("arrows move the choice", page.inner_text("#mode b") == names[1 % len(names)])
    page.keyboard.press("Escape")
    for number, mode in enumerate(names):
        page.click("#mode")
        page.click(f"#shelf .m:nth-child({number + 1})")
        epoch = viewer.stats()["epoch"]
        prompt = viewer.send_until_seen(f"a purple bird, number {number}")
        check(f"sent as {mode}", prompt["mode"] == mode)
        check(f"{mode}: epoch", (viewer.stats()["epoch"] > epoch) == (mode == "cut"))


def pause_and_go_on(viewer):
    page = viewer.page
    page.keyboard.press("Escape")
    page.mouse.move(400, 200)
    until("the buttons over the picture", lambda: page.get_attribute("#pic", "data-chrome") == "on")
    page.click("#pause")
    viewer.until_state("paused")
    until("the message at the foot", lambda: page.inner_text("#foot h2").startswith("Paused at chunk"))
    words = "a red sailboat that nobody shall see"
    viewer.send(words)
    until("it waits", lambda: (viewer.prompt(words) or {}).get("state") == "accepted")
    check("the receipt says for which chunk", "waits for chunk" in viewer.text("#receipt"))
    page.click("#receipt .undo")
    until("taken back", lambda: viewer.prompt(words)["state"] == "cancelled")
    page.click("#foot .btn.pri")
    viewer.until_live()
    check("it was not shown", words not in page.get_attribute("#canvas", "aria-label"))


def refused_words(viewer):
    """What the server refuses is said under the line; the words stay."""
    words = "lighthouse " * 300
    viewer.send(words)
    until("words under the line", lambda: viewer.page.is_visible("#line-problem"))
    said = viewer.text("#line-problem")
    check(f"it names counts: {said}", any(letter.isdigit() for letter in said))
    check("the words stay", viewer.page.input_value("#words").strip() == words.strip())
    viewer.send("   ")
    check("empty words are refused at once", "no words" in viewer.text("#line-problem"))
    viewer.page.fill("#words", "a kite")
    check("typing takes the message away", not viewer.page.is_visible("#line-problem"))


def keyboard(viewer):
    page = viewer.page
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    check("/ goes to the line", page.evaluate("document.activeElement.id") == "words")
    page.keyboard.type("k")
    check("keys are text in the line", viewer.stats()["state"] == "live")
    page.keyboard.press("Escape")
    page.keyboard.press("k")
    viewer.until_state("paused")
    page.keyboard.press("k")
    viewer.until_live()
    page.keyboard.press("?")
    check("? opens the sheet", page.is_visible("#sheet"))
    page.keyboard.press("Escape")
    check("Esc closes it", not page.is_visible("#sheet"))
    page.keyboard.press("h")
    check("H opens Measure", page.is_visible("#panel-measure"))
    until("fps in it", lambda: page.inner_text("[data-figure=shown] .n") not in ("", "–"))
    page.keyboard.press("h")
    page.keyboard.press("x")
    check("X: pixel", page.inner_text("#pixel") == "Pixel")
    page.keyboard.press("x")
    page.keyboard.press("f")
    until("full screen", lambda: page.evaluate("document.documentElement.hasAttribute('data-full')"))
    check("without the bar", not page.is_visible(".bar"))
    page.keyboard.press("/")
    check("the line is there when asked for", page.evaluate("document.activeElement.id") == "words")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("f")
    until("the page again", lambda: page.is_visible(".bar"))
    page.click("#open-sheet")
    page.click("#single-keys")
    page.click("#close-sheet")
    page.keyboard.press("h")
    check("single keys can be switched off", not page.is_visible("#panel-measure"))
    page.click("#open-sheet")
    page.click("#single-keys")
    page.click("#close-sheet")


def new_seed(viewer):
    """The dice asks once, then starts a new film from chunk 0."""
    before = viewer.text("#seed-value")
    viewer.page.keyboard.press("d")
    viewer.page.keyboard.press("d")
    until("another seed", lambda: viewer.text("#seed-value") != before)
    viewer.until_live()


def buffered_player(browser, url, words):
    """Media Source Extensions: moves, turns, reports the same."""
    viewer = Viewer(browser, url)
    viewer.until_live()
    check("by MSE", viewer.stats()["path"] == "mse")
    viewer.until_moving()
    before = viewer.look()["mean"]
    viewer.send_until_seen(words)
    until("another colour", lambda: difference(before, viewer.look()["mean"]) > 2)
    viewer.close()


def daemon_restarts(daemon, viewer):
    """kill -9, start again: the page says so, then comes back to the same session by itself."""
    viewer.until_live()
    session, epoch = viewer.stats()["session"], viewer.stats()["epoch"]
    daemon.kill()
    viewer.until_state("reconnecting")
    check("the last picture stays", max(viewer.look()["grey"]) > 0)
    check("and the page says what happens", "Trying again" in viewer.text("#foot"))
    daemon.start()
    until("the stream again", lambda: viewer.stats()["state"] == "live", 120)
    viewer.until_more_frames()
    viewer.until_moving()
    check("the same session", viewer.stats()["session"] == session)
    check("as a new scene", viewer.stats()["epoch"] > epoch)
    viewer.send_until_seen("a blue airship at midnight")


def session_ends(daemon, viewer):
    check("deleted", daemon.answer("DELETE", f"/v1/sessions/{viewer.stats()['session']}")[0] == 204)
    viewer.until_state("ended")
    check("the end has its numbers", "seed" in viewer.text("#full-message"))
    viewer.page.reload()
    until("the page's modules", lambda: viewer.page.evaluate("!!window.lightforced"))
    viewer.until_state("gone")
    viewer.page.click("#full-message .btn.pri")
    until("a new session", lambda: viewer.page.evaluate("!!window.lightforced && lightforced.stats().state") == "live")


def test_picture(program):
    rules = f"--host-resolver-rules=MAP {LAN_NAME} 127.0.0.1"
    os.environ["LIGHTFORCED_SERVER_ALLOWED_HOSTS"] = LAN_NAME
    with Daemon(program, "--backend", "test") as daemon, Browser(rules) as browser:
        daemon.start()
        viewer = Viewer(browser, daemon.url)
        run("moves and turns", moves_and_turns, viewer)
        check("by WebCodecs", viewer.stats()["path"] == "webcodecs")
        run("address and second tab", address_and_second_tab, browser, daemon, viewer)
        run("modes", modes, viewer)
        run("pause and go on", pause_and_go_on, viewer)
        run("refused words", refused_words, viewer)
        run("keyboard", keyboard, viewer)
        run("new seed", new_seed, viewer)
        run("MSE, asked for", buffered_player, browser, daemon.url + "/?player=mse", "an orange zeppelin over the desert at night")
        run("MSE, on a name without WebCodecs", buffered_player, browser, f"http://{LAN_NAME}:{daemon.port}/", "a red hot-air balloon at noon")
        run("the daemon restarts", daemon_restarts, daemon, viewer)
        run("the session ends", session_ends, daemon, viewer)
        check(f"no errors in the page: {browser.errors}", not browser.errors)


def test_model(program, model):
    with Daemon(program, "--model", model, "--backend", "cpu") as daemon, Browser() as browser:
        daemon.start()
        viewer = Viewer(browser, daemon.url)
        run("moves and turns", moves_and_turns, viewer)
        run("suggestions", lambda: until("chips", lambda: viewer.page.query_selector("#chips .chip")))
        check(f"no errors in the page: {browser.errors}", not browser.errors)


def main():
    program, engine = sys.argv[1], sys.argv[2]
    if engine == "test":
        test_picture(program)
    else:
        test_model(program, sys.argv[3] if len(sys.argv) > 3 else os.path.join(ROOT, "models", "demo"))
    print("passed")


if __name__ == "__main__":
    main()
