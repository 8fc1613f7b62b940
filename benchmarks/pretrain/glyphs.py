"""Which glyphs the small vision transformer is trained on, and how they are drawn.

A *class* is a set of characters with one shape (``A``, ``Α``, ``А`` and 𝐀 are one class); each is
drawn in every font that has it. Digits, and whatever looks like one, are left out in three ways:

1. by what Unicode says of a character (:func:`is_numeric`);
2. by a list made by hand (:data:`LOOKALIKES`), also of a character that stands on a listed one
   (``Ó`` on ``O``, 𝓞 on ``O``);
3. by measure: a drawing that resembles a digit of one of the fonts (:func:`resembles_digit`), and
   all of a class half of whose drawings do.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

CANVAS = 48
"""Side of a drawing, in pixels."""
INK = 40
"""Longer side of the glyph inside its drawing, in pixels."""
RESEMBLANCE = 0.70
"""From this correlation with a digit on, a drawing counts as a look-alike."""
SAME_SHAPE = 0.985
"""From this correlation on, two characters of one font have the same shape."""

DEJAVU = "Bitstream Vera and public domain (DejaVu)"
STIX = "STIX Font Licence (1.0)"
BAKOMA = "BaKoMa Fonts Licence (Computer Modern)"

FONTS = {
    "DejaVuSans.ttf": DEJAVU,
    "DejaVuSans-Bold.ttf": DEJAVU,
    "DejaVuSans-Oblique.ttf": DEJAVU,
    "DejaVuSans-BoldOblique.ttf": DEJAVU,
    "DejaVuSansMono.ttf": DEJAVU,
    "DejaVuSansMono-Bold.ttf": DEJAVU,
    "DejaVuSansMono-Oblique.ttf": DEJAVU,
    "DejaVuSansMono-BoldOblique.ttf": DEJAVU,
    "DejaVuSerif.ttf": DEJAVU,
    "DejaVuSerif-Bold.ttf": DEJAVU,
    "DejaVuSerif-Italic.ttf": DEJAVU,
    "DejaVuSerif-BoldItalic.ttf": DEJAVU,
    "STIXGeneral.ttf": STIX,
    "STIXGeneralBol.ttf": STIX,
    "STIXGeneralItalic.ttf": STIX,
    "STIXGeneralBolIta.ttf": STIX,
    "cmr10.ttf": BAKOMA,
    "cmb10.ttf": BAKOMA,
    "cmss10.ttf": BAKOMA,
    "cmti10.ttf": BAKOMA,
    "cmtt10.ttf": BAKOMA,
    "cmmi10.ttf": BAKOMA,
}
"""The fonts, as matplotlib names their files, and the licence of each."""

BLOCKS = (
    (0x0021, 0x007E),  # ASCII
    (0x00A1, 0x024F),  # Latin
    (0x0250, 0x02AF),  # phonetic letters
    (0x0370, 0x052F),  # Greek, Cyrillic
    (0x0531, 0x0587),  # Armenian
    (0x05D0, 0x05EA),  # Hebrew
    (0x0621, 0x06D3),  # Arabic
    (0x10A0, 0x10FC),  # Georgian
    (0x1D00, 0x1DBF),  # phonetic extensions
    (0x2010, 0x205E),  # punctuation
    (0x20A0, 0x20BF),  # currencies
    (0x2100, 0x214F),  # letterlike symbols
    (0x2190, 0x23FF),  # arrows, operators, technical symbols
    (0x25A0, 0x27BF),  # geometric shapes, symbols, dingbats
    (0x27C0, 0x27FF),  # mathematical symbols, arrows
    (0x2900, 0x2B2F),  # arrows, mathematical symbols and operators
    (0x2C60, 0x2C7F),  # Latin, extended C
    (0x2D00, 0x2D67),  # Georgian, Tifinagh
    (0xA722, 0xA7FF),  # Latin, extended D
    (0xFB50, 0xFDFB),  # Arabic, forms A
    (0xFE70, 0xFEFC),  # Arabic, forms B
    (0x1D400, 0x1D7FF),  # mathematical letters
)
"""Where characters are taken from: first and last code point."""

LOOKALIKES = {
    "0": (
        "ᴄᴅᴆÐĐƉƊƋƌꝹꝺΩ℧ʊƱƟⴰⴲᴏᴑᴒᴓ⬬⬭⬮⬯⚬⚭ʘѺѻɸɷ☉℗ΦOoQDCcΟοΘθϴσОоӨөѲѳҨҩ"
        "ՕօՓφϕФфסםტᲝߋߏ०()°º∅⌀ØøɵꝊꝋꝌꝍ⊘⍉⎔◯○●◌◍◎◉⚪⚫⭕❍⬤⨀ⵔⵙⴱⵀⵁⵚⵕ@©®ه⦰⦱"
        "⦳⦴⭘◦•∙⦁☺☹☻⬡⬢⁐⫐"
    ),
    "1": (
        "∕⁄⧸⧹⟋⟍∖⧵⫽⫻╱╲⍀⌿‖∥ǁᴊʟ⎰⎱⌠⌡ᴛIiJjlL|!¡/\\ĺłŁıɩɪɭɫſƖƗɨΙιІіЇїЈјӀ"
        "ӏוןזךاﺍﺎİ∣∤⎮❘❙❚│┃¦ǀǃ⌊⌋⌈⌉ⵏⵑ¹ᒪ՛՜[]{}†‡ᛁᴉⁱ"
    ),
    "2": ("ɀȿZzƧƨƵƶȤȥʐʑΖζՉշՇԶզ⁊ᒿᘔƻ?¿ɂɁʔʕʖʡʢԐԑꙄꙅᴢⵒꝚꝛꝜꝝⱫⱬʣʤʥʫ☡⚡↯ϟ♃ⱿԄԅᶎ"),
    "3": ("ƺɚƷʒȜȝƐɛɜɝɞЗзЭэЄєӠӡҘҙԐԑՅξΞვკეჳჰზ∃ϵЕ∋ᗱᕮᴟᴈℨӬӭӞӟʓƸƹᶾ℥ꜪꜫꝪꝫꜢꜣᴣѮѯჴԆԇⴤ"),
    "4": "УуүγƳƴɎɏЧчҶҷҸҹӋӌӴӵԿկՎYy¥ϤЦцԺվɥɰᔦᏎꜬꜭꜮꜯ",
    "5": "ʄƒꞀꞁ∮∯∰∱∲∳⨍⨎⨏⨐⨑⨒⨓⨔⨕⨖⨗⨘⨙⨚⨛⨜SsſƽƼҔҕՏտ§$ϚϛЅѕʂȘșΣ∫ʃƪ∬ꜱႽςҁ♄",
    "6": "GԌეðđδ∂ɗʛ“‟❝‘‛❛bБбɓЬьЂђЪъЫыЋћҌҍՁճნსϬϭ♭ƃƄƅƂɕᑲᑳᏏᏮҺһɠԃԁƓႺⴚ",
    "7": "TtΓГг¬⌐ךדרתףןᒣᒧ⅂ЛлƬ┐Τᒉ⅃⅁ϒ₸",
    "8": "♀♂♁☿⚥⚦⚧⚨⚩⚲ɤƢƣB&ẞßβБВвƁȢȣЖ∞სგჵႹ⊞ʙɮʚɞ∝♾ᏰՑցծზჭႴႳႱႫႪႬႭ",
    "9": (
        "eеɘəǝәӘƏɊϘϙ”„’‚❞❜þÞϷϸΡgqpaɑαρҭզգԳɡɢɋʠƍ٩ԛԚРрǥԴႢႱႲႩႳდძქᑫᑬᏄPDժ¶ⱷꝗꝙꝖꝘꝮꝯꝰƿǷ♋℮ҼҽҾҿوۄۅۆۇۈۉۊۋۏ"
    ),
}
"""Characters that may be taken for a digit, by the digit; more than needed is meant."""

NUMERIC_WORDS = (
    "DIGIT",
    "NUMBER",
    "NUMERAL",
    "FRACTION",
    "TONE",
    "CIRCLE",
    "CIRCLED",
    "CIRCULATION",
    "RING",
    "DIE FACE",
    "RECYCLING",
    "ROOT",
    "DECIMAL",
    "SUBSCRIPT TWO",
    "CLOCK",
    "WATCH",
    "VULGAR",
    "PERCENT",
    "MILLE",
    "PER TEN",
    "KEYCAP",
    "INFINITY",
    "VERTICAL LINE",
    "VERTICAL BAR",
    "CARE OF",
    "ACCOUNT OF",
    "ADDRESSED",
    "YIN YANG",
    "PEACE",
    "BALL",
    "MOON",
)
"""Words of a Unicode name that say that a glyph is, holds, or looks like a digit."""
_NUMERIC = re.compile(rf"\b(?:{'|'.join(NUMERIC_WORDS)})S?\b")


@dataclass(frozen=True)
class GlyphClass:
    """Characters of one shape, and where each is drawn."""

    label: str
    characters: tuple[str, ...]
    drawings: tuple[tuple[str, str], ...]
    """Pairs of font and character."""


def is_numeric(character: str) -> bool:
    """Whether Unicode says that a character is, or contains, a digit or number."""
    plain = unicodedata.normalize("NFKD", character)
    if any(unicodedata.category(part)[0] == "N" for part in character + plain):
        return True
    if any(unicodedata.numeric(part, None) is not None for part in character + plain):
        return True
    return re.search(_NUMERIC, unicodedata.name(character, "")) is not None


@cache
def lookalikes() -> frozenset[str]:
    """The characters of :data:`LOOKALIKES`, in one set."""
    return frozenset("".join(LOOKALIKES.values()))


def skeleton(character: str) -> str | None:
    """The plain character that a styled one stands for; None if it is composed of several.

    >>> skeleton("𝔄"), skeleton("Ä"), skeleton("Ǆ")
    ('A', None, None)
    """
    if 0xFB50 <= ord(character) <= 0xFEFC:  # Arabic forms differ in shape from their letter
        return character
    plain = unicodedata.normalize("NFKD", character)
    return plain if len(plain) == 1 else None


def is_excluded(character: str) -> bool:
    """Whether the first or the second way leaves a character out."""
    parts = set(unicodedata.normalize("NFKD", character)) | {character}
    return is_numeric(character) or bool(parts & lookalikes())


def candidates() -> Iterator[str]:
    """Characters of the blocks that are letters or symbols, single, and not excluded."""
    for first, last in BLOCKS:
        for code in range(first, last + 1):
            character = chr(code)
            drawn = unicodedata.category(character)[0] in "LPS"
            if drawn and skeleton(character) is not None and not is_excluded(character):
                yield character


def font_path(font: str) -> Path:
    """Where matplotlib keeps a font."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / font


@cache
def characters_of(font: str) -> frozenset[str]:
    """The characters that a font draws; of TeX fonts only the letters, which are in their place."""
    with TTFont(font_path(font), lazy=True) as opened:
        codes = opened.getBestCmap()
    if FONTS[font] == BAKOMA:
        return frozenset(c for c in map(chr, codes) if c.isascii() and c.isalpha())
    return frozenset(map(chr, codes))


@cache
def _typeface(font: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(font_path(font)), 96, layout_engine=ImageFont.Layout.BASIC)


@cache
def draw(font: str, character: str) -> np.ndarray | None:
    """A glyph, light on dark, (48, 48) uint8; None if it is empty or hardly more than a line.

    >>> draw("DejaVuSans.ttf", "A").shape
    (48, 48)
    """
    left, top, right, bottom = _typeface(font).getbbox(character)
    width, height = int(right - left), int(bottom - top)
    if min(width, height) < 8 or max(width, height) > 4 * min(width, height):
        return None
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).text((-left, -top), character, fill=255, font=_typeface(font))
    box = image.getbbox()
    if box is None:
        return None
    return _fit(image.crop(box))


def _fit(image: Image.Image) -> np.ndarray:
    scale = INK / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    canvas = Image.new("L", (CANVAS, CANVAS))
    canvas.paste(
        image.resize(size, Image.Resampling.BOX),
        ((CANVAS - size[0]) // 2, (CANVAS - size[1]) // 2),
    )
    return np.asarray(canvas)


def coarse(drawing: np.ndarray) -> np.ndarray:
    """A drawing in 12 × 12 pixels, centred and of length 1: dot products are correlations."""
    side = CANVAS // 12
    small = drawing.reshape(12, side, 12, side).mean((1, 3)).ravel().astype(np.float64)
    small -= small.mean()
    return small / max(float(np.linalg.norm(small)), 1e-9)


@cache
def digit_drawings() -> np.ndarray:
    """The digits of all fonts, coarse: (digits, 144). Only compared with, never trained on."""
    fonts = [font for font, licence in FONTS.items() if licence != BAKOMA]
    drawn = [draw(font, digit) for font in fonts for digit in "0123456789"]
    return np.stack([coarse(drawing) for drawing in drawn if drawing is not None])


def resembles_digit(drawing: np.ndarray) -> bool:
    """Whether a drawing correlates with a digit by :data:`RESEMBLANCE` or more."""
    return float((digit_drawings() @ coarse(drawing)).max()) >= RESEMBLANCE


def _draw_all() -> dict[str, dict[str, np.ndarray]]:
    """Every candidate in every font that has it: font → character → drawing."""
    wanted = list(candidates())
    drawn = {}
    for font in FONTS:
        here = [c for c in wanted if c in characters_of(font)]
        pairs = [(c, draw(font, c)) for c in here]
        drawn[font] = {c: drawing for c, drawing in pairs if drawing is not None}
    return drawn


class _Union:
    """Disjoint sets of characters."""

    def __init__(self) -> None:
        self.parent: dict[str, str] = {}

    def find(self, item: str) -> str:
        while (above := self.parent.setdefault(item, item)) != item:
            item = above
        return item

    def join(self, first: str, second: str) -> None:
        low, high = sorted((self.find(first), self.find(second)))
        self.parent[high] = low


def _same_shapes(drawn: dict[str, np.ndarray]) -> Iterator[tuple[str, str]]:
    characters = list(drawn)
    shapes = np.stack([coarse(drawn[c]) for c in characters])
    for first, second in np.argwhere(np.triu(shapes @ shapes.T >= SAME_SHAPE, 1)):
        yield characters[first], characters[second]


def _groups(drawn: dict[str, dict[str, np.ndarray]]) -> Iterable[list[str]]:
    """Characters of one shape: by their skeleton, or because a font draws them alike."""
    union = _Union()
    for font in drawn.values():
        for character in font:
            union.join(character, skeleton(character) or character)
        for first, second in _same_shapes(font):
            union.join(first, second)
    present = sorted({c for font in drawn.values() for c in font})
    groups: dict[str, list[str]] = {}
    for character in present:
        groups.setdefault(union.find(character), []).append(character)
    return groups.values()


def glyph_classes() -> list[GlyphClass]:
    """All classes, in the order of their first character."""
    drawn = _draw_all()
    classes = []
    for group in _groups(drawn):
        drawings = [(font, c) for c in group for font in drawn if c in drawn[font]]
        kept = [(font, c) for font, c in drawings if not resembles_digit(drawn[font][c])]
        if 2 * len(kept) > len(drawings):
            characters = tuple(dict.fromkeys(c for _, c in kept))
            classes.append(GlyphClass(characters[0], characters, tuple(kept)))
    return classes


def atlas(classes: list[GlyphClass]) -> tuple[np.ndarray, np.ndarray]:
    """All drawings, distinct in their class: (n, 48, 48) uint8, and the class of each, (n,)."""
    images: list[np.ndarray] = []
    labels: list[int] = []
    for label, glyphs in enumerate(classes):
        drawings = (draw(font, character) for font, character in glyphs.drawings)
        distinct = {d.tobytes(): d for d in drawings if d is not None}
        images.extend(distinct.values())
        labels.extend([label] * len(distinct))
    return np.stack(images), np.array(labels)
