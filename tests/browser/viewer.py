# SPDX-License-Identifier: Apache-2.0
"""One tab on the page, as the browser tests use it: what it shows, what it says, what people do in it."""
from browser import until

# Mean colour (0..255, three numbers) and a small grey picture of what is on the page now.
LOOK = """() => {
	const surface = ['canvas', 'video'].map((id) => document.getElementById(id)).find((node) => !node.hidden);
	const small = new OffscreenCanvas(32, 18);
	const context = small.getContext('2d', { willReadFrequently: true });
	context.drawImage(surface, 0, 0, 32, 18);
	const data = context.getImageData(0, 0, 32, 18).data;
	const mean = [0, 0, 0];
	const grey = [];
	for (let i = 0; i < data.length; i += 4) {
		for (let c = 0; c < 3; c++)
			mean[c] += data[i + c] / (32 * 18);
		grey.push((data[i] + data[i + 1] + data[i + 2]) / 3);
	}
	return { mean, grey };
}"""


class Viewer:
    """One tab on the page."""

    def __init__(self, browser, url, **options):
        self.page = browser.page(**options)
        self.page.goto(url)
        until("the page's modules", lambda: self.page.evaluate("!!window.lightforced"))

    def stats(self):
        return self.page.evaluate("lightforced.stats()")

    def look(self):
        return self.page.evaluate(LOOK)

    def text(self, selector):
        return self.page.inner_text(selector)

    def until_state(self, state):
        until(f"state {state} (is {self.stats()['state']})", lambda: self.stats()["state"] == state)

    def until_more_frames(self, frames=5):
        before = self.stats()["shown"]
        until(f"{frames} more frames", lambda: self.stats()["shown"] >= before + frames)

    def until_live(self):
        self.until_state("live")
        self.until_more_frames()

    def until_moving(self):
        first = self.look()["grey"]
        until("a picture that differs", lambda: difference(first, self.look()["grey"]) > 0.05)

    def send(self, text):
        self.page.fill("#words", text)
        self.page.press("#words", "Enter")

    def prompt(self, text):
        found = [prompt for prompt in self.stats()["prompts"] if prompt["text"] == text and prompt["mine"]]
        return found[-1] if found else None

    def send_until_seen(self, text):
        self.send(text)
        until(f"'{text}' seen", lambda: (self.prompt(text) or {}).get("state") == "seen")
        return self.prompt(text)

    def close(self):
        self.page.context.close()


def difference(a, b):
    return sum(abs(x - y) for x, y in zip(a, b)) / len(a)


def check(what, fact):
    if not fact:
        raise AssertionError(what)


def run(name, call, *arguments):
    print(f"-- {name}", flush=True)
    call(*arguments)
