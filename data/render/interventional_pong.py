"""Pong whose ball and paddles are now and then put elsewhere, and a score that is not."""

from __future__ import annotations

from functools import partial

import numpy as np

from ppl_models.config import at_least
from ppl_models.data.render import intervened as of_two_frames
from ppl_models.data.render.raster import Field, as_bytes, in_blocks, paint
from ppl_models.data.render.world_options import number
from ppl_models.data.tables.from_parts import Array
from ppl_models.data.tables.table import Dataset

FIELD, BORDER = 32.0, 2.0  # units per side
RADIUS, SPEED = 1.2, 2.0  # of the ball
WIDTH, HEIGHT = 2.0, 6.0  # of a paddle
PADDLES = (5.0, 27.0)  # where they are across
CENTRES = (BORDER + HEIGHT / 2, FIELD - BORDER - HEIGHT / 2)  # that a paddle shows whole at
WALLS = (BORDER + RADIUS, FIELD - BORDER - RADIUS)
FACES = (PADDLES[0] + WIDTH / 2 + RADIUS, PADDLES[1] - WIDTH / 2 - RADIUS)  # of the ball's centre
MOVE, WON = 1.5, 5  # a paddle's largest step, and the score that begins a new game
NOISE = (0.2, 0.2, 0.1, 0.5, 0.5)  # of the five variables in their order
VARIABLES = ("ball_x", "ball_y", "ball_vel_dir", "paddle_left_y", "paddle_right_y")
GROUND, EDGE, SCORE = (0.9,) * 3, (0.1,) * 3, (0.5,) * 3
BALL, LEFT, RIGHT = (0.9, 0.1, 0.1), (0.1, 0.2, 0.9), (0.1, 0.7, 0.2)
DIGITS = (  # 3 x 5, from the top
    "111101101101111", "010110010010111", "111001111100111", "111001111001111", "101101111001001",
)  # fmt: skip


def load(
    train: int = 20_000,
    validation: int = 1_000,
    test: int = 5_000,
    side: int = 32,
    seed: int = 0,
    *,
    noise: float = 1.0,
    speed: float = SPEED,
    intervened: float = 0.15,
    sequences: int = 50,
) -> Dataset:
    """Sites ``x`` and ``x_next`` (side x side x 4), ``targets`` (5) and what is behind ``x``.

    The set Interventional Pong of CITRIS (Lippe et al. 2022, arXiv 2202.03169): paddles follow
    the ball, which flies on, is thrown back by walls and paddles, and begins anew in the middle
    when it has passed one. At a step at most one of its place across and up, its direction and
    the two paddles is set by hand. Red, green and blue show the field and its score; the fourth
    channel shows the ball where it would be after a step, so that a frame tells its direction.
    ``ball_x``, ``ball_y``, ``paddle_left_y`` and ``paddle_right_y`` (units of a field of 32 x 32,
    from the bottom left), ``ball_vel_dir`` (its sine and cosine, 0 is up), ``score_left`` and
    ``score_right`` are those of ``x``.

    Args:
        train: Training rows.
        validation: Validation rows.
        test: Test rows.
        side: Pixels per side.
        seed: Seed of everything.
        noise: Factor of all noise of a step.
        speed: Of the ball, units per step.
        intervened: Probability that a variable would be set at a step, were each set apart from
            the others; none is with probability (1 - this) to the power 5, else any one.
        sequences: Number of sequences that the training rows are windows of, all of one length;
            of validation rows as many.

    Raises:
        ValueError: If an option is out of range.
    """
    at_least(side=(side, 8))
    noise, speed = number("noise", noise, 0), number("speed", speed, 0, HEIGHT)
    options = {
        "train": train, "validation": validation, "test": test, "side": side, "noise": noise,
        "speed": speed, "intervened": intervened, "sequences": sequences,
    }  # fmt: skip
    return of_two_frames.dataset(
        "interventional_pong",
        anywhere,
        anywhere,
        partial(step, noise=noise, speed=speed),
        partial(in_blocks, partial(drawn, side=side, speed=speed)),
        factors,
        len(VARIABLES),
        options,
        seed,
    )


def anywhere(rows: int, draw: np.random.Generator) -> Array:
    """States ``(rows, 7)``, every number uniform: the five variables and the two scores."""
    ends = (FACES, WALLS, (0.0, 2 * np.pi), CENTRES, CENTRES)
    numbers = [draw.uniform(*pair, rows) for pair in ends]
    return np.stack([*numbers, *draw.integers(WON, size=(2, rows))], 1)


def factors(state: Array) -> dict[str, Array]:
    """What is behind frames, by name."""
    angle = state[:, 2]
    numbers = dict(zip((*VARIABLES, "score_left", "score_right"), state.T, strict=True))
    return {**numbers, "ball_vel_dir": np.stack([np.sin(angle), np.cos(angle)], 1)}


def step(
    state: Array,
    target: Array,
    draw: np.random.Generator,
    noise: float = 1.0,
    speed: float = SPEED,
) -> Array:
    """States after these, under targets ``(rows,)`` in the order of the five variables."""
    x, y, angle, left, right, *score = state.T
    rows = len(state)
    jitter = noise * draw.normal(size=(5, rows)) * np.array(NOISE)[:, None]
    paddles = []
    for paddle, own in ((left, jitter[3]), (right, jitter[4])):
        paddles.append(paddle + np.clip(y - paddle, -MOVE, MOVE) + own)
    ball = _flown(x, y, angle, (left, right), jitter[:3], speed)
    lost = [ball[0] < WALLS[0], ball[0] > WALLS[1]]  # by the left, by the right
    again = lost[0] | lost[1]
    anew = [np.full(rows, FIELD / 2)] * 2 + [draw.uniform(0, 2 * np.pi, rows)]
    ball = [np.where(again, new, own) for new, own in zip(anew, ball, strict=True)]
    lots = draw.uniform(4, FIELD - 4, (2, rows))
    paddles = [np.where(again, new, own) for new, own in zip(lots, paddles, strict=True)]
    score = [score[0] + lost[1], score[1] + lost[0]]
    over = (score[0] >= WON) | (score[1] >= WON)
    by_hand = [
        draw.uniform(*FACES, rows),
        draw.uniform(*WALLS, rows),
        draw.uniform(0, 2 * np.pi, rows),
        *(p + MOVE * draw.choice([-1, 1], rows) + noise * NOISE[3] * draw.normal(size=rows)
          for p in (left, right)),
    ]  # fmt: skip
    after = [
        np.where(target == place, set_, own)
        for place, (set_, own) in enumerate(zip(by_hand, [*ball, *paddles], strict=True))
    ]
    after = [
        v % (2 * np.pi) if ends is None else v.clip(*ends)
        for v, ends in zip(after, (WALLS, WALLS, None, CENTRES, CENTRES), strict=True)
    ]
    return np.stack([*after, *(np.where(over, 0, s) for s in score)], 1)


def _flown(
    x: Array, y: Array, angle: Array, paddles: tuple[Array, Array], jitter: Array, speed: float
) -> list[Array]:
    """Place and direction of the ball after a step, thrown back by walls and paddles."""
    x, y = x + speed * np.sin(angle), y + speed * np.cos(angle)
    for wall, beyond in ((WALLS[0], y < WALLS[0]), (WALLS[1], y > WALLS[1])):
        y, angle = np.where(beyond, 2 * wall - y, y), np.where(beyond, np.pi - angle, angle)
    for place, (face, paddle) in enumerate(zip(FACES, paddles, strict=True)):
        sign = 1 - 2 * place  # which way is away from the paddle
        far = PADDLES[place] - sign * (WIDTH / 2 + RADIUS)
        met = (sign * (x - face) < 0) & (sign * (x - far) > 0) & (sign * np.sin(angle) < 0)
        met &= np.abs(y - paddle) <= HEIGHT / 2
        x, angle = np.where(met, 2 * face - x, x), np.where(met, -angle, angle)
    return [x + jitter[0], y + jitter[1], angle + jitter[2]]


def drawn(state: Array, side: int = 32, speed: float = SPEED) -> Array:
    """Images ``(rows, side, side, 4)`` of uint8."""
    field = Field(side, FIELD)
    x, y, angle, left, right, *scores = state.T
    images = np.full((len(state), side, side, 4), (*GROUND, 1.0), np.float32)
    colours, seen = images[..., :3], images[..., 3:]
    for place, score in zip((10.0, 19.0), scores, strict=True):
        paint(colours, _digits(field, place)[score.astype(int)], SCORE)
    for low in (25.0, 27.0):
        paint(colours, field.rectangle((15.5, 16.5), (low, low + 1)), SCORE)
    for place, centre, colour in zip(PADDLES, (left, right), (LEFT, RIGHT), strict=True):
        across = (place - WIDTH / 2, place + WIDTH / 2)
        paint(colours, field.rectangle(across, (centre - HEIGHT / 2, centre + HEIGHT / 2)), colour)
    whole = (0.0, FIELD)
    for low, high in ((0.0, BORDER), (FIELD - BORDER, FIELD)):
        paint(colours, field.rectangle(whole, (low, high)), EDGE)
        paint(colours, field.rectangle((low, high), whole), EDGE)
    paint(colours, field.disc(x, y, RADIUS), BALL)
    ahead = field.disc(x + speed * np.sin(angle), y + speed * np.cos(angle), RADIUS)
    paint(seen, ahead, (0.0,))
    return as_bytes(images)


def _digits(field: Field, left: float) -> Array:
    """Shares ``(5, side, side)`` of the digits from 0 to 4, three units wide and five high."""
    found = np.zeros((len(DIGITS), field.side, field.side), np.float32)
    for digit, cells in enumerate(DIGITS):
        for k in (k for k, cell in enumerate(cells) if cell == "1"):
            across, up = left + k % 3, 28.0 - k // 3
            found[digit] += field.rectangle((across, across + 1), (up, up + 1))[0]
    return found
