# SPDX-License-Identifier: Apache-2.0
"""The demo world: a procedural renderer of stylised landscapes with one moving subject, 256x144 at 16 frames/s.

A clip is a script of up to three scenes (see clips.py) with the moments at which one turns into the next. `resolve`
turns the script into smooth per-frame values, `render` draws them: sky, sun or moon, clouds, three terrain layers, the
subject between the second and the third, then fog, rain and snow. Everything is plain tensor arithmetic on [clips,
frames, rows, columns], without data-dependent branches, on the CPU or a GPU; nothing here learns.

Shapes are chosen so that an autoencoder with a stride of 8 pixels keeps them: big facets, few thin lines, a sun that no
cloud crosses, and a subject that always stands out from what lies behind it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attributes import COUNT, NAMES, SAILBOAT

HEIGHT, WIDTH = 144, 256
SEEDS = 24  # random numbers in [0, 1) that a clip needs for its landscape

PALETTE = torch.tensor(
    [[.86, .12, .12], [.98, .52, .08], [.98, .85, .15], [.16, .66, .24], [.15, .36, .88], [.52, .20, .70],
     [.98, .50, .72], [.96, .96, .96], [.10, .76, .74], [.66, .88, .18], [.50, .29, .15]])
SKY_TOP = torch.tensor([[.34, .44, .74], [.16, .46, .88], [.20, .13, .40], [.02, .035, .14]])
SKY_MIDDLE = torch.tensor([[.86, .64, .74], [.45, .73, .96], [.86, .34, .38], [.07, .11, .31]])
SKY_LOW = torch.tensor([[1., .84, .68], [.84, .94, .98], [1., .70, .30], [.19, .25, .48]])
LIGHT = torch.tensor([[.98, .80, .82], [1.05, 1.03, 1.0], [.95, .60, .48], [.26, .32, .54]])
CLOUD = torch.tensor([[1., .82, .80], [1., 1., 1.], [.98, .55, .45], [.16, .19, .34]])
GROUND = torch.tensor(  # [terrain, layer, rgb]
    [[[.42, .62, .52], [.36, .63, .27], [.20, .47, .17]],
     [[.58, .62, .76], [.40, .44, .56], [.08, .23, .19]],
     [[.82, .60, .46], [.93, .73, .43], [.82, .57, .29]],
     [[.40, .52, .58], [.14, .46, .64], [.05, .30, .50]]])
SUN_X = torch.tensor([50., 210., 208.])
SUN_Y = torch.tensor([62., 26., 66.])
SUN_COLOUR = torch.tensor([[1., .90, .70], [1., .98, .85], [1., .78, .40]])
PARALLAX = (.16, .42, 1.0)
PIXELS_PER_FRAME = torch.tensor([1.0, 2.0, 3.4])  # of the near layer, by speed
# frames that a change takes, by attribute
BLEND_FRAMES = dict(tod=18., ter=20., wea=14., col=10., spd=12., pan=16.)
EXIT_FRAMES, ENTER_FRAMES, AWAY_PX = 8., 10., 44.
SUBJECT_Y = torch.tensor([50., 54., 56., 44., 50., 84.])
SUBJECT_SCALE = (1.15, 1.45, 1.4, 1.4, 1.25, 1.3)
WINDOW = 120  # side of the square in which the subject is drawn


@dataclass
class State:
    """Per-frame values of a batch of clips; B clips, F frames."""

    tod: Tensor  # [B, F, 4] weights of the times of day
    ter: Tensor  # [B, F, 4]
    wea: Tensor  # [B, F, 4]
    subject: Tensor  # [B, F] index
    colour: Tensor  # [B, F, 3]
    facing: Tensor  # [B, F] -1 or 1
    offset: Tensor  # [B, F] pixels that the subject is away from its place
    presence: Tensor  # [B, F] 0..1, how much of the subject is there
    pan: Tensor  # [B, F] pixels that the near layer has moved
    time: Tensor  # [B, F] frames

    def frames(self, first: int, count: int) -> State:
        """The state of `count` frames from `first` on."""
        return State(**{k: v[:, first:first + count] for k, v in vars(self).items()})


def _smooth(x: Tensor) -> Tensor:
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)


def _fract(x: Tensor) -> Tensor:
    return x - torch.floor(x)


def _hash(x: Tensor) -> Tensor:
    """A number in [0, 1) that looks random, for every whole number."""
    return _fract(torch.sin(x * 12.9898) * 43758.547)


def _wave(u: Tensor) -> Tensor:
    """A triangle wave of period 1 between 0 and 1."""
    return 1 - (2 * _fract(u) - 1).abs()


def resolve(scenes: dict[str, Tensor], switch: Tensor, time: Tensor) -> State:
    """Smooth per-frame values of clips. scenes: attribute -> [B, 3] indices of the three scenes; switch [B, 2]: the
    times at which the second and the third begin; time [B, F]. Times of day, terrain, weather and colour blend. A new
    subject or a new direction is a change of cast: the old one draws ahead and dissolves, the new one comes up from behind
    as it forms, in a little more than a second.
    """
    device, (clips, frames) = time.device, time.shape
    blended: dict[str, Tensor] = {}
    for name in ("tod", "ter", "wea"):
        weight = torch.nn.functional.one_hot(scenes[name], COUNT[name]).float()
        now = weight[:, 0:1].expand(clips, frames, -1)
        for j in range(2):
            a = _smooth((time - switch[:, j:j + 1]) / BLEND_FRAMES[name]).unsqueeze(-1)
            now = now * (1 - a) + weight[:, j + 1:j + 2] * a
        blended[name] = now
    colours, sign = PALETTE.to(device)[scenes["col"]], scenes["dir"].float() * 2 - 1
    speeds = PIXELS_PER_FRAME.to(device)[scenes["spd"]]
    subject = scenes["sub"][:, 0:1].expand(clips, frames)
    colour, facing = colours[:, 0:1].expand(clips, frames, 3), sign[:, 0:1].expand(clips, frames)
    course, speed = sign[:, 0:1].expand(clips, frames), speeds[:, 0:1].expand(clips, frames)
    offset, presence = torch.zeros_like(time), torch.ones_like(time)
    for j in range(2):
        dt = time - switch[:, j:j + 1]
        recast = (scenes["sub"][:, j + 1] != scenes["sub"][:, j]) | (scenes["dir"][:, j + 1] != scenes["dir"][:, j])
        recast_, gone = recast.float().unsqueeze(1), (dt >= EXIT_FRAMES).float()
        subject = torch.where(gone.bool(), scenes["sub"][:, j + 1:j + 2].expand(clips, frames), subject)
        a = (recast_ * gone + (1 - recast_) * _smooth(dt / BLEND_FRAMES["col"])).unsqueeze(-1)
        colour = colour * (1 - a) + colours[:, j + 1:j + 2] * a
        facing = torch.where(gone.bool(), sign[:, j + 1:j + 2].expand(clips, frames), facing)
        a = _smooth(dt / BLEND_FRAMES["spd"])
        speed = speed * (1 - a) + speeds[:, j + 1:j + 2] * a
        a = _smooth(dt / BLEND_FRAMES["pan"])
        course = course * (1 - a) + sign[:, j + 1:j + 2] * a
        out = (dt / EXIT_FRAMES).clamp(0, 1)
        back = 1 - ((dt - EXIT_FRAMES) / ENTER_FRAMES).clamp(0, 1)
        leaving = sign[:, j:j + 1] * AWAY_PX * out * out * (1 - gone)
        coming = -sign[:, j + 1:j + 2] * AWAY_PX * back * back * gone
        offset = offset + recast_ * torch.where(dt > 0, leaving + coming, torch.zeros_like(dt))
        presence = presence * (1 - recast_ * torch.where(gone > 0, _smooth(back), _smooth(out)))
    step = torch.cat([torch.zeros_like(time[:, :1]), time[:, 1:] - time[:, :-1]], 1)
    return State(subject=subject, colour=colour, facing=facing, offset=offset, presence=presence, time=time,
                 pan=torch.cumsum(course * speed * step, 1), **blended)


# ------------------------------------------------------------------ shapes: coverage in 0..1, about 1.3 pixels of edge
def _edge(distance: Tensor) -> Tensor:
    return (distance * .8 + .5).clamp(0, 1)


def _triangle(x: Tensor, y: Tensor, a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> Tensor:
    def side(p: tuple[float, float], q: tuple[float, float]) -> Tensor:
        ex, ey = q[0] - p[0], q[1] - p[1]
        return ((x - p[0]) * ey - (y - p[1]) * ex) / math.hypot(ex, ey)

    area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
    s = -1. if area > 0 else 1.
    return _edge(torch.minimum(torch.minimum(s * side(a, b), s * side(b, c)), s * side(c, a)))


def _ellipse(x: Tensor, y: Tensor, cx: float, cy: float, rx: float, ry: float) -> Tensor:
    d = torch.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + 1e-6)
    return _edge((1 - d) * min(rx, ry))


def _box(x: Tensor, y: Tensor, x0: float, x1: float, y0: float, y1: float) -> Tensor:
    return _edge(torch.minimum(torch.minimum(x - x0, x1 - x), torch.minimum(y - y0, y1 - y)))


Colour = list[Tensor] | tuple[float, float, float]


class _Layer:
    """A premultiplied picture that shapes are laid over one after the other."""

    def __init__(self, like: Tensor) -> None:
        self.rgb: list[Tensor] = [torch.zeros_like(like) for _ in range(3)]
        self.alpha = torch.zeros_like(like)

    def over(self, colour: Colour, m: Tensor) -> None:
        self.rgb = [v * (1 - m) + m * c for v, c in zip(self.rgb, colour, strict=True)]
        self.alpha = self.alpha * (1 - m) + m


def _balloon(x: Tensor, y: Tensor, c: list[Tensor], lit: list[Tensor], dark: list[Tensor], t: Tensor) -> _Layer:
    lay, below = _Layer(x), y - 4
    cone = _edge(14.5 - .58 * below - x.abs()) * ((below > 0) & (below < 17)).float()
    hull = torch.maximum(_ellipse(x, y, 0, -9, 18, 17.5), cone)
    round_x = x / torch.sqrt((1 - ((y + 9) / 30) ** 2).clamp(.08, 1))
    stripe = _smooth(torch.sin(round_x * .52) * 1.3 + .5)
    shade = 1.06 - .018 * (x + 6).clamp(0, 30)
    lay.over((.25, .18, .12), (1.2 - (x.abs() - 4.5).abs()).clamp(0, 1) * ((y > 17) & (y < 24)).float() * .8)
    wave = 24 + 2.2 * torch.sin(x * .32 + t * .35) * ((-x - 4) / 10).clamp(0, 1)
    flag = _edge(3.2 - .075 * (-x - 4) - (y - wave).abs()) * _edge(-x - 4) * _edge(26 + x)
    lay.over(lit, flag)
    lay.over([(a * stripe + b * (1 - stripe)) * shade for a, b in zip(c, lit, strict=True)], hull)
    lay.over((.45, .28, .14), _box(x, y, -4.8, 4.8, 22, 29.5))
    return lay


def _bird(x: Tensor, y: Tensor, c: list[Tensor], lit: list[Tensor], dark: list[Tensor], t: Tensor) -> _Layer:
    lay = _Layer(x)

    def wing(reach: Tensor, shift: float) -> Tensor:
        reach = torch.where(reach < 0, reach.clamp(max=-5), reach.clamp(min=5))
        k = (y + 1) / reach
        front, back = 10 + shift - 15 * k, -11 + shift - 8 * k
        inside = torch.minimum(torch.minimum(x - back, front - x) * .8, torch.minimum(k + .1, 1 - k) * reach.abs())
        return _edge(inside)

    lay.over([v * .8 for v in dark], wing(-17 * torch.cos(t * .30 - .35) - 3, 6))
    lay.over(dark, _triangle(x, y, (-9, -2), (-28, -9), (-26, 6)))
    lay.over(c, _ellipse(x, y, 0, 0, 17, 7.6))
    lay.over(lit, _ellipse(x, y, 2, 3, 12, 4))
    lay.over(c, _ellipse(x, y, 15, -4.5, 6.8, 6.2))
    lay.over((.98, .66, .12), _triangle(x, y, (20, -8), (29, -3.5), (20, -.5)))
    lay.over((.05, .05, .05), _ellipse(x, y, 17, -5.5, 1.8, 1.8))
    lay.over(dark, wing(-20 * torch.cos(t * .30), -1))
    return lay


def _plane(x: Tensor, y: Tensor, c: list[Tensor], lit: list[Tensor], dark: list[Tensor], t: Tensor) -> _Layer:
    lay = _Layer(x)
    lay.over(dark, _triangle(x, y, (25, 0), (-17, 3), (-10, 14)))
    lay.over(c, _triangle(x, y, (25, 0), (-23, -16), (-13, 3)))
    lay.over(lit, _triangle(x, y, (25, 0), (-23, -16), (-19, -4)))
    return lay


def _kite(x: Tensor, y: Tensor, c: list[Tensor], lit: list[Tensor], dark: list[Tensor], t: Tensor) -> _Layer:
    lay, down = _Layer(x), y - 15
    length = _edge(y - 14) * _edge(35 - y)
    mid = -1.15 * down + 3.0 * torch.sin(y * .33 - t * .3) * (down / 10).clamp(0, 1)
    lay.over((.95, .95, .9), _edge(2.3 - (x - mid).abs() * .72) * length)
    lay.over(lit, (4.8 - (x - mid).abs() * .8).clamp(0, 1) * length * ((torch.sin(y * .8) - .1) * 3).clamp(0, 1))
    xr, yr = x * .94 + y * .34, y * .94 - x * .34
    inside = 1 - xr.abs() / 14.5 - torch.where(yr < -3, (-3 - yr) / 14, (yr + 3) / 21)
    m = _edge(inside * 10)
    s, q = _edge(xr), _edge(yr + 3)
    f = s * q + (1 - s) * (1 - q)
    lay.over([a * f + b * (1 - f) for a, b in zip(c, lit, strict=True)], m)
    spar = torch.maximum(1.3 - xr.abs(), 1.3 - (yr + 3).abs()).clamp(0, 1)
    lay.over((.2, .14, .1), m * spar * .6)
    return lay


def _airship(x: Tensor, y: Tensor, c: list[Tensor], lit: list[Tensor], dark: list[Tensor], t: Tensor) -> _Layer:
    lay = _Layer(x)
    lay.over(dark, _triangle(x, y, (-17, 0), (-33, -14), (-30, 0)))
    lay.over(dark, _triangle(x, y, (-17, 0), (-33, 14), (-30, 0)))
    shade, band = 1.08 - .028 * (y + 6).clamp(0, 30), (3.4 - (y + 1).abs()).clamp(0, 1) * .75
    lay.over([(v * (1 - band) + band) * shade for v in c], _ellipse(x, y, 0, 0, 30, 12))
    lay.over((.30, .30, .36), _box(x, y, -9, 9, 11, 17.5))
    lay.over((.95, .9, .6), _box(x, y, -6.5, 6.5, 12.8, 15.4))
    return lay


def _sailboat(x: Tensor, y: Tensor, c: list[Tensor], lit: list[Tensor], dark: list[Tensor], t: Tensor) -> _Layer:
    lay = _Layer(x)
    hull = _edge(torch.minimum(22 - (y - 13).clamp(0, 12) * .8 - x.abs(), torch.minimum(y - 13, 21 - y)))
    lay.over((.35, .25, .18), _box(x, y, -1.1, 1.1, -27, 13))
    lay.over(c, _triangle(x, y, (1.5, -26), (1.5, 10), (-19, 10)))
    lay.over(lit, _triangle(x, y, (2.5, -21), (2.5, 10), (18, 10)))
    lay.over((.42, .25, .15), hull)
    lay.over((.93, .9, .85), hull * (1.4 - (y - 15).abs()).clamp(0, 1))
    return lay


_DRAW = (_balloon, _bird, _plane, _kite, _airship, _sailboat)


def _subject(img: list[Tensor], st: State, seeds: Tensor, light: list[Tensor], fog: Tensor, fog_colour: list[Tensor],
             night: Tensor) -> Tensor:
    """Draws the subject into img (in place); returns its coverage [B, F, H, W]."""
    device, (clips, frames) = seeds.device, st.time.shape
    shape4, t, which = (clips, frames, 1, 1), st.time, st.subject
    phase, boat = seeds[:, 23:24] * 6.283, which == SAILBOAT
    bob = torch.where(boat, 1.6 * torch.sin(t * .13 + phase), 5.5 * torch.sin(t * .055 + phase) + 2 * torch.sin(t * .13))
    cx, cy = 128 + 16 * torch.sin(t * .021 + phase * 1.7) + st.offset, SUBJECT_Y.to(device)[which] + bob
    lean = torch.where(boat, .07 * torch.sin(t * .11 + phase + .8),
                       torch.where(which == 0, .04 * torch.sin(t * .09 + phase), .09 * torch.sin(t * .07 + phase)))
    left = torch.floor(cx - WINDOW / 2).clamp(0, WIDTH - WINDOW).long()
    top = torch.floor(cy - WINDOW / 2).clamp(0, HEIGHT - WINDOW).long()
    columns = left.view(shape4) + torch.arange(WINDOW, device=device)
    rows = top.view(shape4) + torch.arange(WINDOW, device=device).view(1, 1, -1, 1)
    index = (rows * WIDTH + columns).view(clips, frames, -1)
    px = (columns.float() + .5 - cx.view(shape4)).expand(-1, -1, WINDOW, WINDOW)
    py = (rows.float() + .5 - cy.view(shape4)).expand(-1, -1, WINDOW, WINDOW)
    cos, sin = torch.cos(lean).view(shape4), torch.sin(lean).view(shape4)
    x, y = (px * cos + py * sin) * st.facing.view(shape4), -px * sin * st.facing.view(shape4) ** 2 + py * cos
    c = [v.view(shape4) for v in st.colour.unbind(-1)]
    lit, dark = [v * .62 + .38 for v in c], [v * .66 + .05 * night for v in c]
    alpha, rgb = torch.zeros_like(px), [torch.zeros_like(px) for _ in range(3)]
    clock = t.view(shape4) + seeds[:, 23].view(-1, 1, 1, 1) * 6.283
    for k, draw in enumerate(_DRAW):
        chosen = (which == k).float().view(shape4)
        lay = draw(x / SUBJECT_SCALE[k], y / SUBJECT_SCALE[k], c, lit, dark, clock)
        alpha = alpha + chosen * lay.alpha
        rgb = [v + chosen * w for v, w in zip(rgb, lay.rgb, strict=True)]
    there = st.presence.view(shape4)
    alpha, rgb = alpha * there, [v * there for v in rgb]
    # A soft halo keeps the subject apart from its ground: pale at night, dark behind light colours by day.
    pool = torch.nn.functional.avg_pool2d
    halo = pool(pool(alpha, 9, 1, 4), 7, 1, 3)
    pale = ((c[0] + c[1] + c[2]) / 3 - .55).clamp(0, .4) / .4
    veil = .26 * fog
    for i, v in enumerate(img):
        flat = v.view(clips, frames, -1)
        ground = torch.gather(flat, 2, index).view_as(px)
        ground = ground * (1 - .38 * pale * (1 - night) * halo) + night * halo * (.10 + .16 * lit[i] - .2 * ground)
        tint = (.52 + .24 * night + .48 * light[i]) * (1 - veil)
        flat.scatter_(2, index, (ground * (1 - alpha) + rgb[i] * tint + veil * fog_colour[i] * alpha).flatten(2))
    cover = torch.zeros(clips, frames, HEIGHT * WIDTH, device=device)
    return cover.scatter_(2, index, alpha.flatten(2)).view(clips, frames, HEIGHT, WIDTH)


class _Painter:
    """One call of `render`: the picture so far and the values that all its parts share."""

    def __init__(self, st: State, seeds: Tensor) -> None:
        clips, frames = st.time.shape
        self.st, self.seeds, self.shape = st, seeds, (clips, frames)
        self.x = torch.arange(WIDTH, device=seeds.device, dtype=torch.float32).view(1, 1, 1, -1) + .5
        self.y = torch.arange(HEIGHT, device=seeds.device, dtype=torch.float32).view(1, 1, -1, 1) + .5
        self.t, self.pan = self.frame(st.time), self.frame(st.pan)
        self.rain, self.snow, self.fog = (self.frame(st.wea[..., i]) for i in (1, 2, 3))
        self.night = self.frame(st.tod[..., 3])
        self.grey = .75 * self.rain + .55 * self.snow + .5 * self.fog
        sky = [self.mix(m, st.tod) for m in (SKY_TOP, SKY_MIDDLE, SKY_LOW)]
        self.luma = sum(w * sum(c) for w, c in zip((.4, .35, .25), sky, strict=True)) / 3
        self.sky = [self._overcast(c) for c in sky]
        self.light = [v * (1 - .22 * self.grey) for v in self.mix(LIGHT, st.tod)]
        day = st.tod[..., :3]
        total = day.sum(-1, keepdim=True).clamp(min=1e-3)
        weight = day / total
        self.sun_x = self.frame((weight * SUN_X.to(seeds.device)).sum(-1)) + (self.seed(20) - .5) * 30
        self.sun_y = self.frame((weight * SUN_Y.to(seeds.device)).sum(-1)) + self.night * 45 + (self.seed(21) - .5) * 10
        self.sun_colour = self.mix(SUN_COLOUR, weight)
        self.sun_seen = (1 - self.night) * (1 - .8 * self.grey)
        self.moon_x, self.moon_y = 46 + (self.seed(1) - .5) * 40, 30 + (1 - self.night) * 50
        self.stars_seen = self.night * (1 - .85 * self.grey)
        self.fog_colour = [c * .70 + .30 * (self.luma * .6 + .28 * (1 - self.night) + .06) for c in self.sky[2]]
        self.img: list[Tensor] = []
        self.particles = torch.zeros(clips, frames, HEIGHT, WIDTH, device=seeds.device)
        self.disk = torch.zeros(1, device=seeds.device)

    def frame(self, v: Tensor) -> Tensor:
        return v.reshape(*self.shape, 1, 1)

    def seed(self, i: int) -> Tensor:
        return self.seeds[:, i].view(-1, 1, 1, 1)

    def mix(self, table: Tensor, weight: Tensor) -> list[Tensor]:
        return [self.frame(v) for v in (weight @ table.to(weight.device)).unbind(-1)]

    def _overcast(self, c: list[Tensor]) -> list[Tensor]:
        """Bad weather takes colour out of the sky but leaves the time of day recognisable."""
        g = .55 * self.grey
        return [v * (1 - g) + g * (.45 * v + .55 * self.luma * (.92 - .1 * self.rain)) for v in c]

    def lay(self, top: int, bottom: int, colour: list[Tensor] | list[float], m: Tensor) -> None:
        """Lays a colour over the rows top..bottom with coverage m."""
        for v, c in zip(self.img, colour, strict=True):
            part = v[:, :, top:bottom]
            part += (c - part) * m

    def paint_sky(self) -> None:
        k = (self.y / 100).clamp(0, 1)
        a, b = _smooth(k / .62), _smooth((k - .45) / .55)
        full = (*self.shape, HEIGHT, WIDTH)
        self.img = [((t * (1 - a) + m * a) * (1 - b) + lo * b).expand(full).contiguous()
                    for t, m, lo in zip(*self.sky, strict=True)]
        rows = 112
        x, y = self.x, self.y[:, :, :rows]
        r = torch.sqrt((x - self.sun_x) ** 2 + (y - self.sun_y) ** 2)
        glow = (torch.exp(-r / 26) * .55 + torch.exp(-r / 80) * .25) * self.sun_seen
        self.lay(0, rows, self.sun_colour, glow.clamp(0, 1))
        disk = ((12 - r) * .7).clamp(0, 1) * self.sun_seen
        self.lay(0, rows, [c * .4 + .6 for c in self.sun_colour], disk)
        cx, cy = torch.floor(x / 17), torch.floor(y / 17)
        cell = cx * 3.7 + cy * 17.3 + torch.floor(self.seed(0) * 97)
        h1, h2, h3 = _hash(cell), _hash(cell + 31.7), _hash(cell + 77.1)
        d2 = (x - (cx + .25 + .5 * h1) * 17) ** 2 + (y - (cy + .25 + .5 * h2) * 17) ** 2
        bright = (h3 > .45).float() * (.35 + .65 * h3) * ((100 - y) / 60).clamp(0, 1) * torch.exp(-d2 / 1.9)
        star = bright * (.62 + .38 * torch.sin(self.t * .12 + h1 * 40)) * self.stars_seen
        rm = torch.sqrt((x - self.moon_x) ** 2 + (y - self.moon_y) ** 2)
        bite = (9.5 - torch.sqrt((x - self.moon_x - 5) ** 2 + (y - self.moon_y + 2) ** 2)).clamp(0, 1)
        moon = ((11.5 - rm) * .8).clamp(0, 1) * self.stars_seen * (1 - .93 * bite)
        add = star * (rm > 16).float() + torch.exp(-rm / 22) * .175 * self.stars_seen
        for v, c in zip(self.img, (.95, .95, .86), strict=True):
            part = v[:, :, :rows]
            part += add * c
            part += (c - part) * moon
        self.disk = torch.maximum(disk, moon)
        self._paint_clouds(torch.minimum(r, rm + 200 * (1 - self.night))[:, :, :88])

    def _paint_clouds(self, to_disk: Tensor) -> None:
        rows = to_disk.shape[2]
        x, y, s = self.x, self.y[:, :, :rows], self.seed
        u, v = (x + self.pan * .08 + self.t * .04) * .030 + s(2) * 40, y * .085
        n = torch.sin(u + 1.3 * torch.sin(v + s(3) * 6 + .4 * u)) + .6 * torch.sin(u * 2.1 + v * 1.7 + s(4) * 6) \
            + .35 * torch.sin(u * 4.3 - v * 2.9 + s(5) * 6)
        band = _smooth((y - 6) / 16) * _smooth((84 - y) / 34)
        clear = _smooth((to_disk - 20) / 22)  # no cloud over the sun or the moon
        dense = _smooth((n - (.75 - 1.15 * (self.rain + .6 * self.snow)) + .15 * (s(6) - .5)) / 1.1) * band * clear
        shade = .86 + .14 * _smooth((n - .9) / .8)
        colour = [c * (1 - .30 * self.rain - .1 * self.snow) * shade for c in self.mix(CLOUD, self.st.tod)]
        self.lay(0, rows, colour, dense * (.72 - .3 * self.fog))

    def _peaks(self, u: Tensor, pitch: float, base: float, low: float, high: float, slope: float,
               seed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A row of pointed peaks: the ridge [B, F, 1, W], and of the peak that makes it: where its top is (u, y)."""
        cell = torch.floor(u / pitch)
        best = apex_u = apex_y = torch.full_like(u, -1e3)
        for j in (-1., 0., 1.):
            c = cell + j
            at = (c + .5 + .36 * (_hash(c + seed) - .5)) * pitch
            tall = low + (high - low) * _hash(c * 1.7 + seed + 5.3)
            h = tall - slope * (u - at).abs()
            better = h > best
            best = torch.where(better, h, best)
            apex_u, apex_y = torch.where(better, at, apex_u), torch.where(better, base - tall, apex_y)
        return base - best.clamp(min=0), apex_u, apex_y

    def _ridges(self, layer: int, u: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """The upper edge of a layer for the four terrains, and the tops of its mountains."""
        sin, whole = torch.sin, torch.floor
        zero = torch.zeros_like(u)
        if layer == 0:
            peaks, au, ay = self._peaks(u, 66., 101., 26., 54., .92, whole(a))
            return [90 - 6 * sin(u * .022 + a) - 4 * sin(u * .051 + b), peaks,
                    95 - 4 * sin(u * .018 + a) - 3 * sin(u * .043 + b),
                    97 - 13 * (sin(u * .02 + a) + .5 * sin(u * .047 + b) - .75).clamp(min=0)], au, ay
        if layer == 1:
            peaks, au, ay = self._peaks(u, 52., 116., 10., 27., .55, whole(a))
            v = _fract(u * .0072 + a)
            return [105 - 7 * sin(u * .026 + a) - 4 * sin(u * .061 + b), peaks,
                    112 - 15 * torch.where(v < .68, v / .68, (1 - v) / .32) - 3 * sin(u * .03 + b), 94 + zero], au, ay
        bush = _wave(u * .040 + a) * 6 * _hash(whole(u * .040 + a) + whole(b))
        q = u * .042 + a
        cell = whole(q) + whole(b)
        pines = 131 - 3 * sin(u * .02 + b) - (10 + 15 * _hash(cell)) * _wave(q) * (_hash(cell + 3.3) > .25).float()
        v = _fract(u * .0105 + a)
        return [126 - 6 * sin(u * .024 + a) - bush, pines,
                132 - 14 * torch.where(v < .7, v / .7, (1 - v) / .3) - 2 * sin(u * .05 + b),
                121 - 2.2 * sin(u * .05 + self.t * .10 + a) - 1.5 * sin(u * .11 - self.t * .16 + b)], zero, zero

    def paint_terrain(self, layer: int) -> None:
        top = (42, 76, 94)[layer]
        u = self.x + self.pan * PARALLAX[layer]
        a, b, c, d = (self.seed(i) * 100 for i in (7 + 3 * layer, 8 + 3 * layer, 9 + 3 * layer, 16 + layer))
        weights = [self.frame(self.st.ter[..., i]) for i in range(4)]
        ridges, apex_u, apex_y = self._ridges(layer, u, a, b, c)
        h = sum(w * r for w, r in zip(weights, ridges, strict=True))
        mountain, sea = weights[1], weights[3]
        land, y = 1 - sea, self.y[:, :, top:]
        slope = (torch.cat([h[..., 1:], h[..., -1:]], -1) - torch.cat([h[..., :1], h[..., :-1]], -1)) * .5
        depth = y - h
        lit = 1.0 - .10 * _smooth(depth / 40)
        facets = mountain if layer < 2 else 0 * mountain
        lit = lit - .22 * land * (1 - facets) * slope.clamp(-1, 1) * _smooth(1 - depth / (26 if layer else 45))
        if layer < 2:
            # One facet each side of a line that leaves the top askew; the side towards the light is bright.
            side = ((u - apex_u - .22 * (y - apex_y)) * .6).clamp(-1, 1)
            sun_side = self.frame(1 - 2 * self.st.tod[..., 0] - 2 * self.st.tod[..., 3])
            face = side * sun_side
            lit = lit + facets * .17 * face
        else:
            lit = lit + .06 * torch.sin(depth * .50 + 2.2 * torch.sin(u * .035 + c)) * weights[2]
        colour = [g * li * lit for g, li in zip(self.mix(GROUND[:, layer], self.st.ter), self.light, strict=True)]
        if layer < 2:
            cap = (17 if layer == 0 else 8) + 5 * _wave((u - apex_u) * .075 + .5)
            snow = _edge(cap - (y - apex_y)) * _smooth(((72 if layer == 0 else 98) - apex_y) / 10) * mountain
            colour = [v + (li * (.88 + .13 * face) * k - v) * snow
                      for v, li, k in zip(colour, self.light, (.95, .97, 1.04), strict=True)]
        if layer >= 1:
            colour = self._water(layer, u, y, depth, a, d, colour, sea)
        fallen = self.snow * land * (.62 if layer else .5) * _smooth(1 - depth / 60)
        colour = [v + (li * .93 * (lit * .5 + .5) - v) * fallen for v, li in zip(colour, self.light, strict=True)]
        haze, foggy = (.36, .14, .0)[layer], (.74, .58, .34)[layer]
        far = haze * (1 - .4 * sea) + self.fog * (foggy - haze) * (1 - .25 * _smooth(depth / 50))
        colour = [v + (f * self.fog + s * (1 - self.fog) - v) * far
                  for v, f, s in zip(colour, self.fog_colour, self.sky[2], strict=True)]
        self.lay(top, HEIGHT, colour, (depth + .5).clamp(0, 1))

    def _water(self, layer: int, u: Tensor, y: Tensor, depth: Tensor, a: Tensor, d: Tensor, colour: list[Tensor],
               sea: Tensor) -> list[Tensor]:
        down = (y - 94).clamp(min=0)
        per, t, x = torch.sqrt(down + 1), self.t, self.x
        wave = torch.sin(per * 6.2 - t * .10 + 1.6 * torch.sin(u * .035 + t * .02 + d)) \
            + .6 * torch.sin(per * 3.1 + u * .05 + t * .13 + a)
        k = _smooth(down / 46)
        ground = self.mix(GROUND[:, layer], self.st.ter)
        if layer == 1:
            glitter = .5 + .5 * torch.sin(per * 9. - t * .22 + u * .11)
            sun = torch.exp(-((x - self.sun_x) / (7 + .35 * down)) ** 2) * glitter * self.sun_seen
            sun = (sun * (.55 + .25 * self.frame(self.st.tod[..., 2])) * (1 - .7 * self.grey)).clamp(0, .85)
            moon = torch.exp(-((x - self.moon_x) / (7 + .3 * down)) ** 2) * glitter * self.stars_seen * .3
        out = []
        for i in range(3):
            reflected = self.sky[2][i] * (1 - k) + self.sky[0][i] * k
            v = (.50 * reflected + .50 * ground[i] * self.light[i]) * (.97 + .075 * wave)
            if layer == 1:
                v = v + (self.sun_colour[i] - v) * sun + moon
            else:
                v = v * (1 - .12 * _smooth(1 - depth / 7)) + .16 * self.light[i] * _smooth(1 - depth / 2.6)
            out.append(colour[i] * (1 - sea) + v * sea)
        return out

    def paint_weather(self) -> None:
        x, y, t, s = self.x, self.y, self.t, self.seed
        wisp = .5 + .5 * torch.sin(x * .021 + t * .03 + self.pan * .02 + 1.2 * torch.sin(y * .045 + s(18) * 6))
        self.lay(0, HEIGHT, self.fog_colour, self.fog * (.16 + .30 * wisp * _smooth((y - 30) / 50)))
        for j, (pitch, length, speed, dense) in enumerate(((23., 66., 6.4, .60), (15., 52., 4.4, .40))):
            u = x + self.pan * (.6 - .2 * j) + .22 * y
            cell = torch.floor(u / pitch)
            h1, h2 = _hash(cell + 13. * j + torch.floor(s(19) * 53)), _hash(cell * 1.7 + 5. + j)
            across = (_fract(u / pitch) - (.3 + .4 * h2)) * pitch
            v = _fract((y - t * speed) / length + h1 * 7)
            m = torch.exp(-(across / (1.7, 1.3)[j]) ** 2) * _smooth(v / .22) * _smooth((.30 - v) / .05) * self.rain * dense
            self.lay(0, HEIGHT, [(.55 * li + .35) * (1 - .45 * self.night) for li in self.light], m)
            self.particles = torch.maximum(self.particles, m)
        for j, (pitch, radius, speed, dense) in enumerate(((36., 2.9, 1.5, .95), (25., 2.0, 1.0, .8))):
            u = x + self.pan * (.75 - .25 * j) + 5 * torch.sin(t * .05 + y * .02 + j)
            v = y - t * speed
            ci, cj = torch.floor(u / pitch), torch.floor(v / pitch)
            cell = ci * 5.3 + cj * 11.9 + 19 * j + torch.floor(s(22) * 61)
            dx = (_fract(u / pitch) - (.25 + .5 * _hash(cell))) * pitch
            dy = (_fract(v / pitch) - (.25 + .5 * _hash(cell + 41.3))) * pitch
            m = torch.exp(-(dx * dx + dy * dy) / radius ** 2) * dense * self.snow * (_hash(cell + 7.7) > .22).float()
            self.lay(0, HEIGHT, [.97 - .32 * self.night] * 3, m)
            self.particles = torch.maximum(self.particles, m)


@torch.no_grad()
def render(st: State, seeds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Draws clips. seeds [B, SEEDS]. Returns the pictures [B, F, 3, H, W] in 0..1 and, for weighting losses, the
    coverage [B, F, H, W] of the subject (the sun and the moon count half) and that of rain and snow.
    """
    p = _Painter(st, seeds)
    p.paint_sky()
    p.paint_terrain(0)
    p.paint_terrain(1)
    cover = _subject(p.img, st, seeds, p.light, p.fog, p.fog_colour, p.night)
    p.paint_terrain(2)
    p.paint_weather()
    rows = p.disk.shape[2]
    cover[:, :, :rows] = torch.maximum(cover[:, :, :rows], .5 * p.disk)
    return torch.stack(p.img, 2).clamp_(0, 1), cover, p.particles


def scenes_to(scenes: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The scripts' indices on a device."""
    return {name: scenes[name].to(device) for name in NAMES}
