"""Stories for children, composed from the pieces in plots.txt: seeded, deterministic.

`story(rng)` chooses a way through the states of plots.txt (a want, what makes it harder, a turn, an
end), an opening that suits it and a world (who, what, where), and writes it down.
`python embed/recipe/stories.py --count 3 --seed 7` prints three stories; `--check` reads plots.txt
and says what does not fit together in it.  How a piece is written stands at the head of plots.txt.
"""

import argparse
import functools
import random
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUTCOMES = ("good", "sad", "funny", "open")
ENDS = (*OUTCOMES, "year", "land")  # what an end may close; the last two take up the opening
KINDS_OF_THING = ("light", "round", "hard", "toy", "small", "other")
SECOND_NAMES = 0.12  # the share of names that have two parts


# ---------------------------------------------------------------------------------- plots.txt


@dataclass
class Beat:
    """A piece of a story: it can happen in the states `sources` and leads into `target`."""

    kind: str
    sources: tuple
    target: str
    needs: frozenset
    text: str
    choices: list = field(default_factory=list)  # (names, values) of the @ lines
    where: int = 0  # the line in plots.txt

    @functools.cached_property
    def slots(self):
        """Every {word} that it may ask for, those inside its choices included."""
        return set(re.findall(r"\{(\w+)\}", self.text + str(self.choices)))


class Plots:
    """What plots.txt holds: lists of words, beats by kind."""

    def __init__(self, text):
        self.lists, self.beats, self.swaps = {}, [], []
        for block, where in blocks(text):
            if block[0].startswith("list "):
                for line in block:
                    name, values = line.removeprefix("list ").split(":", 1)
                    self.lists[name] = split_options(values)
            elif block[0].startswith("swap "):
                for line in block:
                    old, new = line.removeprefix("swap ").rsplit(":", 1)
                    self.swaps.append((re.compile(rf"\b{old}\b", re.I), split_options(new)))
            else:
                self.beats += read_block(block, where)

    def of(self, kind, state=None):
        """The beats of a kind that can happen in a state."""
        return [b for b in self.beats if b.kind == kind and (state is None or state in b.sources)]


def blocks(text):
    """(lines, number of the first) of every block between blank lines, without comments."""
    block, start = [], 0
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        if line.strip() and not line.startswith("#"):
            start = start if block else number
            block.append(line)
        elif not line.strip() and block:
            yield block, start
            block = []


HEAD = re.compile(r"(want|more|turn|open|end) ?([\w, ]*?)(?: ?> ?(\w+))?(?: \((.*)\))?")


def read_block(block, where):
    """The beats of a block: one, or for openings and ends one for each line."""
    head = HEAD.fullmatch(block[0])
    if not head:
        raise ValueError(f"plots.txt, line {where}: '{block[0]}' is no head of a block")
    kind, sources, target, needs = head[1], head[2].replace(",", " ").split(), head[3], head[4]
    target = target or (sources[0] if kind == "more" and len(sources) == 1 else "")
    needs = frozenset((needs or "").replace(",", " ").split())
    if kind in ("open", "end"):
        lines = enumerate(block[1:], start=where + 1)
        return [Beat(kind, tuple(sources), "", needs, line.strip("| "), [], n) for n, line in lines]
    choices = [read_choice(line) for line in block[1:] if line.startswith("@")]
    text = " ".join(line for line in block[1:] if not line.startswith("@"))
    return [Beat(kind, tuple(sources), target, needs, text, choices, where)]


def read_choice(line):
    """'@a, b = x | y' is (["a", "b"], "sample", [...]), '@a/b = x/y | ...' (..., "pair", ...)."""
    names, values = line[1:].split("=", 1)
    how = "pair" if "/" in names else "sample"
    return [n.strip() for n in re.split("[,/]", names)], how, split_options(values)


def split_options(text):
    """The alternatives of a list; a "|" inside brackets separates nothing."""
    return [o.strip() for o in re.split(r"\|(?![^\[]*\])", " ".join(text.split()))]


@functools.cache
def plots():
    return Plots((HERE / "plots.txt").read_text(encoding="utf-8"))


# --------------------------------------------------------------------------------------- names

GIRLS = """Lily Mia Anna Sara Lucy Emma Ella Ruby Nora Molly Daisy Rosie Ivy Amy Kate Jane Sue Mary
Lisa Nina Tina Bella Clara Eva Fay Grace Hana Iris Jill Kim Leah Maya Nell Olive Penny Rita
Sofia Tess Uma Vera Wendy Yara Zara Ada Beth Cora Dora Elsie Freya Gina Heidi Isla Josie
Kira Lola Mina Nadia Orla Poppy Rosa Sally Tilly Una Violet Willa Alma Birdie Chloe Della
Edie Flora Greta Hazel Ines Juno Luna Mabel Nelly Opal Pearl Ramona Stella Thea Vivi Ana
Jenny Betty Lena Rachel""".split()
BOYS = """
Tim Tom Ben Max Sam Jack Leo Finn Jake Bob Joe Billy Dan Eli Fred Gus Hugo Ian Jim Kai Luke
Milo Ned Oscar Paul Ray Sid Theo Victor Will Adam Bruno Carl David Emil Felix George Henry
Ivan John Karl Liam Mark Noah Otto Peter Robin Simon Tobias Walter Anton Bill Charlie Dylan
Ethan Frank Gabe Harry Isaac Jonah Kevin Louie Mike Nico Owen Pablo Quinn Rory Stan Toby
Umar Vince Wally Amir Bo Cody Danny Ernie Timmy Tommy Johnny Ravi Omar Mateo Andy Teddy""".split()
PETS = """Pip Dot Bibi Coco Momo Fluffy Spot Rex Biscuit Pepper Button Patch Fuzzy Bubbles Pickle
Ginger Peanut Rusty Shadow Sunny Snowy Smoky Tiny Waffle Mop Buddy Cookie Honey Bear Dusty
Lucky Jojo Nibble Pebble Puff Scout Sparky Tuffy Whisker Ziggy Mango Rolo Bingo Maple Clover
Acorn Fern""".split()
TITLES = {
    "he": "Captain Mister Old Little King Sir Uncle Doctor Prince Big Professor".split(),
    "she": "Captain Lady Old Little Queen Aunt Doctor Princess Miss Big Professor".split(),
}
STARTS = """
b br bl c ch cr d dr f fl fr g gl gr h j k kl kr l m n p pl pr qu r s sh sk sl sm sn sp st
str t th tr tw v w x y z zh""".split()
VOWELS = "a a a a a e e e e e i i i i o o o o u u u ai au ea ee ei ie oa oo ou y".split()
MIDDLES = "b bb d dd f g k l ll lm m mm n nd ng nn p r rr rt s ss st t tt v x z zz".split()
CODAS = "b ck d f g k l ld lf m n nd ng nk p r rk rt s sh sk st t th x z".split()
ACCENTS = "áàâäãåāăąæçćčďđéèêëēėęěğģíìîïīįıķĺľłļñńňņóòôöõøōőœŕřśšşșßťțúùûüūůűųýÿźžżþð"


@functools.cache
def real_names():
    """{"girls": [...], "boys": [...], "family": [...]} of many languages, without the judge's."""
    names = {"girls": [], "boys": [], "family": []}
    for line in (HERE / "names.txt").read_text(encoding="utf-8").split("\n"):
        if ":" in line and not line.startswith("#"):
            where, listed = line.split(":", 1)
            kept = [name for name in listed.split() if name not in unseen_parts()]
            names[where.split(", ")[1]] += kept
    return names


@functools.cache
def unseen_names():
    """Names for the judge, never drawn here: unseen.txt, one a line."""
    return [n for n in (HERE / "unseen.txt").read_text(encoding="utf-8").split("\n") if n]


@functools.cache
def unseen_parts():
    return {part for name in unseen_names() for part in re.split("[ -]", name)}


def made_up(rng):
    """A word that nobody has: copying it is the only way to know it."""
    start = rng.choice(STARTS) if rng.random() < 0.88 else ""
    syllables = [start + rng.choice(VOWELS)]
    for _ in range(rng.choice((0, 1, 1, 1, 1, 2))):
        syllables.append(rng.choice(MIDDLES) + rng.choice(VOWELS))
    word = "".join(syllables) + (rng.choice(CODAS) if rng.random() < 0.5 else "")
    if rng.random() < 0.3:
        at = rng.randrange(len(word))
        word = word[:at] + rng.choice(ACCENTS) + word[at + 1 :]
    return word if 3 <= len(word) <= 10 else made_up(rng)


def capital(word):
    return word[:1].upper() + word[1:]


def open_name(rng, he):
    """One of the names of the world, or one that is made up; none is likelier than another."""
    if rng.random() < 0.2:
        name = capital(made_up(rng))
    else:
        name = rng.choice(real_names()["girls" if he == "she" else "boys"])
    return open_name(rng, he) if name in unseen_parts() else name


def common_name(rng, names):
    """One of `names`, the first of them often and the last of them rarely, as in life."""
    return names[int((len(names) + 1) ** rng.random()) - 1]


def draw_name(rng, he, wild, openness):
    """(full name, what the others say): ("Ana Silva", "Ana"), ("Captain Bo", "Captain Bo")."""
    names = (GIRLS if he == "she" else BOYS) if not wild else PETS
    first = open_name(rng, he) if rng.random() < openness else common_name(rng, names)
    if first in unseen_parts():
        return draw_name(rng, he, wild, openness)
    if rng.random() > SECOND_NAMES * (0.4 + openness):
        return first, first
    how = rng.random()
    if how < 0.35:
        return f"{first} {rng.choice(real_names()['family'])}", first
    if how < 0.5:
        return (f"{first} {capital(made_up(rng))}",) * 2
    second = open_name(rng, he)
    if how < 0.65:
        return (f"{rng.choice(TITLES[he])} {first}",) * 2
    return (f"{first}{rng.choice((' ', ' ', '-'))}{second}",) * 2


# --------------------------------------------------------------------------------------- world

HE = {"he": "he", "him": "him", "his": "his", "himself": "himself"}
SHE = {"he": "she", "him": "her", "his": "her", "himself": "herself"}
ME = {"he": "I", "him": "me", "his": "my", "himself": "myself"}
FEMALE = set("hen cow ladybug princess fairy witch mermaid queen".split())
MALE = set("prince wizard king griffin".split())
PAWS = set(
    """rabbit fox bear mouse squirrel hedgehog cat dog kitten puppy beaver badger otter raccoon
    mole panda lion tiger koala kangaroo bunny wolf hamster weasel skunk sloth""".split()
)
WINGS = set(
    """duck owl penguin parrot hen goose robin sparrow crow swan ladybug bee chick raven
    griffin""".split()
)


@dataclass
class Person:
    """Somebody in a story."""

    name: str  # in full
    short: str  # as it is told
    kind: str
    trait: str
    words: dict  # he, him, his, himself
    named: bool = True
    mentions: int = 0

    @property
    def a_kind(self):
        return f"a {self.trait} {self.kind}"

    @property
    def hand(self):
        return "paw" if self.kind in PAWS else "wing" if self.kind in WINGS else "hand"


def draw_person(rng, what, other_than=(), openness=0.3):
    """A child, a wild one (animal or creature) or a grown-up with a trade."""
    lists = plots().lists
    words = rng.choice((HE, SHE))
    if other_than and rng.random() < 0.85:  # two "he" in one story are hard to tell apart
        words = SHE if other_than[0].words["he"] == "he" else HE
    if what == "wild":
        kind = rng.choice(lists["fantasy" if rng.random() < 0.3 else "animal"])
    else:
        kind = rng.choice(lists["trade"]) if what == "trade" else "boy"
    if kind in FEMALE or kind in MALE:
        words = SHE if kind in FEMALE else HE
    if kind == "boy" and words is SHE:
        kind = "girl"
    name, short = draw_name(rng, words["he"], what == "wild" and rng.random() < 0.7, openness)
    taken = {part for p in other_than for part in (p.short, p.kind if what == "wild" else "")}
    if short in taken or kind in taken:
        return draw_person(rng, what, other_than, openness)
    trait = rng.choice(lists[{"child": "childtrait", "wild": "wildtrait"}.get(what, "tradetrait")])
    return Person(name, short, kind, trait, words)


class World:
    """Who, what and where of one story: the values of {slots}, and who has been named already."""

    def __init__(self, rng, what, thing_kinds=KINDS_OF_THING, told_by_hero=False):
        lists = plots().lists
        self.rng, self.me = rng, told_by_hero
        self.hero = draw_person(rng, what, openness=0.6)
        friend = "child" if rng.random() < (0.85 if what == "child" else 0.3) else "wild"
        self.friend = draw_person(rng, friend, [self.hero])
        other = rng.choice(("child", "child", friend, "trade"))
        self.other = draw_person(rng, other, [self.friend, self.hero])
        self.people = [self.hero, self.friend, self.other]
        self.kin, kin_he, self.evoc = rng.choice(
            lists["oldkin" if what == "trade" else "kin"]
        ).split(":")
        self.elder_words, self.values = SHE if kin_he == "she" else HE, {}
        self.set_words()
        self.fill_in(lists, thing_kinds)

    def set_words(self):
        """he, him ... of the hero, fhe, ehe, ohe ... of friend, elder, third one."""
        for prefix, words in (
            ("", ME if self.me else self.hero.words),
            ("f", self.friend.words),
            ("e", self.elder_words),
            ("o", self.other.words),
        ):
            self.values |= {prefix + key: word for key, word in words.items()}

    def fill_in(self, lists, thing_kinds):
        """Things, places, and other words that stay the same in the whole story."""
        rng, v = self.rng, self.values
        adj = rng.choice(lists["colour" if rng.random() < 0.5 else "look"])
        noun = self.noun(thing_kinds)
        adj = made_up(rng) if rng.random() < 0.06 else adj
        v.update(adj=adj, noun=noun, thing=f"{adj} {noun}", a_thing=f"a {adj} {noun}")
        v.update(like=rng.choice(lists["like"]), year=draw_year(rng), land=capital(made_up(rng)))
        v["like2"] = rng.choice([like for like in lists["like"] if like != v["like"]])
        for name in ("colour", "food", "place", "number"):
            v[name] = rng.choice(lists[name])
        wild = self.hero.kind in lists["animal"] + lists["fantasy"]
        v["home"] = rng.choice(lists["wild" if wild else "home"])
        for name in ("strange", "strange2", "strange3"):
            v[name] = capital(made_up(rng)) if rng.random() < 0.5 else open_name(rng, "she")
        man = {"he": "man", "she": "woman"}[self.hero.words["he"]]
        self.name_people(old_kind=self.hero.kind if wild else man)

    def name_people(self, old_kind):
        """What hero, friend, elder and the third one are called, and their hands."""
        v, h, f = self.values, self.hero, self.friend
        us = ("we", "us", "our", "ours") if self.me else ("they", "them", "their", "theirs")
        v.update(zip(("they", "them", "their", "theirs"), us, strict=True))
        v.update(name=h.name, voc=h.short, a_kind=h.a_kind, kind=h.kind, hero_kind=h.kind)
        v.update(a_job=f"a {h.kind}", old_kind=old_kind, hand=h.hand, hands=h.hand + "s")
        v.update(fname=f.short, fvoc=f.short, fhand=f.hand, fhands=f.hand + "s")
        v.update(ovoc=self.other.short, evoc=self.evoc, ehand="hand", kin=self.kin)
        v.update(elder=f"{v['his']} {self.kin}", elder_s=f"{v['his']} {self.kin}'s")

    def noun(self, kinds):
        if kinds == KINDS_OF_THING and self.rng.random() < 0.06:
            return made_up(self.rng)
        return self.rng.choice([n for kind in kinds for n in plots().lists[kind]])

    def word(self, slot):
        """What stands for {slot} at this point of the story."""
        if slot in ("hero", "whom", "whose", "mine"):
            return self.hero_word(slot)
        if slot in ("friend", "other"):
            return self.somebody(self.friend if slot == "friend" else self.other)
        if slot in ("name", "voc"):
            self.hero.mentions += 1
        if slot in ("a_hero", "a_friend"):
            return self.introduced(self.hero if slot == "a_hero" else self.friend)
        if slot in ("fname", "fvoc"):
            self.friend.mentions += 1
        return self.values[slot]

    def introduced(self, person):
        person.mentions += 1
        word = self.rng.choice(("named", "called"))
        return f"{person.a_kind} {word} {person.name}" if person.named else person.a_kind

    def hero_word(self, slot):
        """The hero's name; now and then "the dragon", where that can only be the hero."""
        h, first = self.hero, self.hero.mentions == 0
        if self.me:
            return {"hero": "I", "whom": "me", "whose": "my", "mine": "mine"}[slot]
        h.mentions += 1
        name = h.name if first else h.short
        alone = all(p.kind != h.kind for p in self.people[1:]) and h.kind not in ("boy", "girl")
        if not h.named or (alone and h.mentions > 2 and self.rng.random() < 0.12):
            name = f"the {h.kind}"
        return name + "'s" if slot in ("whose", "mine") else name

    def somebody(self, person):
        """The friend's or the other one's name, who is introduced when first named."""
        person.mentions += 1
        if person.mentions > 1:
            return person.short
        if person is self.friend:
            known = self.rng.choice(("friend", "friend", "friend", "best friend", "neighbor"))
            the_kind = f" the {person.kind}" if person.kind not in ("boy", "girl") else ""
            return f"{self.values['his']} {known} {person.name}{the_kind}"
        if person.kind in plots().lists["trade"]:
            return f"the {person.kind} {person.name}"
        return f"{person.a_kind} named {person.name}"


def draw_year(rng):
    """A year: some are round, as people like them."""
    how = rng.random()
    if how < 0.3:
        return str(rng.choice((2050, 2100, 2222, 2500, 3000, 3033, 4000, 5000, 9999, 10000)))
    return str(rng.randrange(1200, 2030) if how < 0.65 else rng.randrange(2030, 9999))


# --------------------------------------------------------------------------------- the notation


@functools.cache
def parse(template):
    """A template as a tuple of strings and, for [a|b], lists of such tuples."""
    return _parse(re.sub(r"\s*\|\s*", "|", " ".join(template.split())), 0, "")[0]


def _parse(text, i, closing):
    """Parse alternatives from text[i:] until `closing`; at the top "|" separates nothing."""
    options, parts, start = [], [], i
    while i < len(text) and text[i] != closing:
        if text[i] == "[":
            parts.append(text[start:i])
            inner, i = _parse(text, i + 1, "]")
            parts.append(inner)
            start = i + 1
        elif text[i] == "|" and closing:
            options.append((*parts, text[start:i]))
            parts, start = [], i + 1
        i += 1
    last = (*parts, text[start:i])
    return ([*options, last], i) if closing else (last, i)


def write(template, world):
    """Expand [choices], <lists> and {words} from left to right, so that who is first is known."""
    return "".join(_write(part, world) for part in parse(template))


def _write(part, world):
    if isinstance(part, list):
        return "".join(_write(p, world) for p in world.rng.choice(part))
    return re.sub(r"<(\w+)>|\{(\w+)\}", lambda m: _expand(m, world), part)


def _expand(match, world):
    if match[1]:
        return write(world.rng.choice(plots().lists[match[1]]), world)
    word = world.word(match[2])
    return write(word, world) if "{" in word or "[" in word or "<" in word else word


def set_choices(choices, world):
    """Carry out the @ lines of a beat."""
    for names, how, options in choices:
        if options[0].startswith("<"):
            options = plots().lists[options[0].strip("<>")]
        if how == "pair":
            chosen = world.rng.choice(options).split("/", len(names) - 1)
        else:
            chosen = world.rng.sample(options, len(names))
        for name, value in zip(names, chosen, strict=True):
            world.values[name] = value
            world.values["the_" + name] = re.sub(r"^an? ", "the ", value)


SPEECH = """said asked cried shouted called whispered thought wondered yelled cheered answered
replied murmured declared explained remarked muttered announced"""
SPEECH = "|".join(SPEECH.split())
SAID = re.compile(r"([,?]\") (said|asked) ((?:[^\s.,\"]+ ?){1,4})(?=[.,]| and\b)")
HE_SAID = re.compile(r"([,?]\" (?!it\b)\w+) (said|asked)(?=\.)")
GOES_ON = re.compile(rf"(?:[\w'-]+ ){{0,4}}(?:{SPEECH}|went)\b(?! about)")


def polish(text):
    """Spaces, a/an, capitals: what the plots need not care about."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"(\w)\"\.(?= |$)", r'\1."', text)
    text = re.sub(r"\b([Aa]) (?=[aeiouAEIOU])(?!uni|one\b|use|eu)", r"\1n ", text)
    text = re.sub(r"^\"?\w|(?<!\.\.)[.!?] \"?\w|\.\" \"?\w|[!?]\" \"\w", _upper_last, text)
    text = re.sub(r"(?<=[!?]\" )\w", _upper_unless_said, text)
    return re.sub(r"(,\" [^.!?\"]*)?[,:] \"\w", _upper_unless_second_half, text)


def _upper_last(match):
    return match[0][:-1] + match[0][-1].upper()


def _upper_unless_said(match):
    """After "Where?" a sentence begins, unless it goes on with: he asked."""
    goes_on = GOES_ON.match(match.string, match.end() - 1)
    return match[0] if goes_on else match[0].upper()


def _upper_unless_second_half(match):
    """A speech begins after 'She said, ', but goes on after '"Yes," she said, '."""
    return match[0] if match[1] else _upper_last(match)


def reword(text, rng):
    """Say things in other words here and there: by the swaps of plots.txt, and who said how."""
    text = re.sub(r"(?<!\.)([?!,.])[?!,.](?=\")", r"\1", text)  # an alternative's own mark wins
    text = re.sub(r"(,\" (?:\w+ )?)asked\b", r"\1said", text)  # no question was asked
    for old, new in plots().swaps:
        text = old.sub(lambda match, new=new: _swapped(match[0], new, rng), text)
    return HE_SAID.sub(lambda m: m[0] + _how(rng), SAID.sub(lambda m: _said(m, rng), text))


def _swapped(old, new, rng):
    """`old` or one of its other wordings, with the capital that it had."""
    word = rng.choice((old, *new))
    return capital(word) if old[0].isupper() else word


def _said(match, rng):
    """'," said Tom' in other words, and how he said it if the sentence ends there."""
    verb = match[2]
    if match[1].startswith("," if verb == "said" else "?"):
        verb = rng.choice(plots().lists["says" if verb == "said" else "asks"])
    ends = match.string[match.end() : match.end() + 1] == "." and " and " not in match[3]
    told_how = re.search(r"\b(last|end|again|time|\w+ly|moment|while|later)$", match[3])
    return f"{match[1]} {verb} {match[3]}" + (_how(rng) if ends and not told_how else "")


def _how(rng):
    return " " + rng.choice(plots().lists["how"]) if rng.random() < 0.3 else ""


# ---------------------------------------------------------------------------------------- story


@dataclass
class Plan:
    """The beats of a story, in order, and what they ask for together."""

    opening: Beat
    beats: list  # a want, some mores, a turn, then an end or none

    @property
    def needs(self):
        return self.opening.needs.union(*(beat.needs for beat in self.beats))

    @property
    def slots(self):
        return set().union(*(beat.slots for beat in self.beats))


def draw_beats(rng):
    """A way through the states: a want, none to two mores, a turn, an end."""
    wants, weights = weighted_wants()
    want = rng.choices(wants, weights)[0]
    beats, state = [want], want.target
    if state in OUTCOMES:  # whole in itself
        return beats
    for _ in range(rng.choice((0, 0, 0, 0, 1, 1, 1, 1, 1, 2))):
        mores = [more for more in plots().of("more", state) if more not in beats]
        if mores:
            beats.append(rng.choice(mores))
            state = beats[-1].target or state
    beats.append(rng.choice(plots().of("turn", state)))
    return beats


@functools.cache
def weighted_wants():
    """(wants, weights): the more turns a want can take, the more often it is told."""
    wants = plots().of("want")
    return wants, [min(6, max(2, len(turns_after(want)))) for want in wants]


def is_held_out(beats):
    """Whether this way from a want to a turn is kept out of training: one of twenty is."""
    key = "".join(beat.text for beat in beats if beat.kind in ("want", "turn"))
    return zlib.crc32(key.encode()) % 20 == 0


def draw_end(rng, beats):
    """An end that fits the turn and speaks only of what has been in the story."""
    known = set().union(*(beat.slots for beat in beats))
    known = {"friend" if slot in ("a_friend", "fvoc") else slot for slot in known}
    known |= {"noun", "thing"} if known & {"noun", "thing", "a_thing"} else set()
    ends = plots().of("end", beats[-1].target)
    return rng.choice([e for e in ends if e.slots & {"friend", "other", "noun", "thing"} <= known])


def thing_kinds(needs):
    """The kinds of thing that all beats can live with."""
    wanted = [kind for kind in KINDS_OF_THING if kind in needs]
    return tuple(wanted) or KINDS_OF_THING


def suits(opening, plan_slots, needs):
    """Whether an opening goes with the beats: who and what is known, and when it is."""
    slots, both = opening.slots, opening.needs | needs
    met_later = "a_friend" in plan_slots and "friend" in slots
    about_thing = slots & {"thing", "a_thing", "noun"}
    has_thing = plan_slots & {"thing", "noun"} and "a_thing" not in plan_slots
    if met_later or (about_thing and not has_thing):
        return False
    clashes = ({"now", "night"}, {"I", "third"}, {"trade", "young"})
    return not any(clash <= both for clash in clashes)


def draw_plan(rng, held_out):
    """Beats, an end and an opening that suits them."""
    beats = draw_beats(rng)
    needs = frozenset().union(*(beat.needs for beat in beats))
    if is_held_out(beats) != held_out or len(needs & set(KINDS_OF_THING)) > 1:
        return draw_plan(rng, held_out)
    if rng.random() < 0.7:
        beats.append(draw_end(rng, beats))
    slots = set().union(*(beat.slots for beat in beats))
    blocks = openings()
    weights = [weight for weight, _ in blocks]
    while True:
        _, lines = rng.choices(blocks, weights)[0]
        lines = [line for line in lines if suits(line, slots, needs)]
        if lines:
            return Plan(rng.choice(lines), beats)


@functools.cache
def openings():
    """(weight, lines) of every block of openings; the weight is the number in its head."""
    found = {}
    for beat in plots().of("open"):
        found.setdefault(beat.needs, []).append(beat)
    return [(int(next(n for n in needs if n.isdigit())), lines) for needs, lines in found.items()]


def make_world(rng, plan):
    """A world in which the plan can happen."""
    needs = plan.needs
    what = "child" if rng.random() < 0.55 else "wild"
    if "trade" in needs:
        what = "trade"
    elif "task" in needs and rng.random() < 0.5:
        what = "wild"
    world = World(rng, what, thing_kinds(needs), "I" in needs)
    asked = "name" in plan.slots | plan.opening.slots
    if what == "wild" and not asked and not needs & {"named", "I"} and rng.random() < 0.3:
        world.hero.named, world.values["voc"] = False, f"little {world.hero.kind}"
    return world


def first_words(rng, plan):
    """When it happens: "One day, "; nothing where the opening has said it."""
    needs = plan.needs
    if needs & {"now", "still"}:
        return ""
    if "night" in needs:
        return "<night>, "
    return rng.choice(("<when>, ", "<when>, ", "<when>, ", "<weather>. ", ""))


def last_words(rng, plan, world):
    """What comes back at the end: the year and the country of the opening."""
    for state in ("year", "land"):
        if state in plan.opening.slots and rng.random() < 0.6:
            return rng.choice(plots().of("end", state)).text
    return ""


def tell(plan, world):
    """The plan as a text, its paragraphs separated by newlines."""
    rng, texts = world.rng, []
    opening = write(plan.opening.text, world)
    for beat in plan.beats:
        first = first_words(rng, plan) if beat is plan.beats[0] else ""
        set_choices(beat.choices, world)
        texts.append(write(first + beat.text, world))
    texts[-1] += " " + write(last_words(rng, plan, world), world)
    if plan.beats[-1].kind == "end":  # on the last line, or on a line of its own
        end = texts.pop()
        texts[-1] += (" // " if rng.random() < 0.2 else " ") + end
    joint = rng.choice((" // ", " // ", " "))
    text = opening + rng.choice((" ", " ", " // ")) + joint.join(texts)
    return "\n".join(filter(None, (finish(line, world) for line in text.split("//"))))


TWO_SENTENCES = re.compile(
    r"(?:(?<=^)|(?<=[.!?] ))([^\W\d_][^.!?\"]*)\. "
    r"(He|She|It|They|We|I|There|Nobody|Everybody|Then|But) ([^.!?\"]*\.)(?= |$)"
)


def join_sentences(text, rng):
    """Two short sentences become one with "and" now and then."""
    return TWO_SENTENCES.sub(lambda match: _joined(match, rng), text)


def _joined(match, rng):
    first, start, rest = match.groups()
    long = len(first.split()) > 9 or len(rest.split()) > 8
    if long or re.search(r"\b(and|but|or|that|if|when)\b", first + rest) or rng.random() < 0.5:
        return match[0]
    start = start if start == "I" else start.lower()
    return f"{first}, {'' if start == 'but' else 'and '}{start} {rest}"


def finish(line, world):
    """A paragraph as it is read."""
    text = polish(me_last(reword(" ".join(line.split()), world.rng), world))
    return join_sentences(text, world.rng)


def me_last(text, world):
    """'I and Tom' is 'Tom and I' when the hero tells the story."""
    if not world.me:
        return text
    friend, elder = world.friend, world.values["elder"]
    who = "|".join(map(re.escape, (friend.name, friend.short, elder)))
    text = re.sub(rf"\bI and ((?:my [a-z ]+ )?(?:{who}))", r"\1 and I", text)
    return re.sub(rf"\b({SPEECH}|added) I\b", r"I \1", text)


def story(rng, held_out=False):
    """One story of 60 to 330 words; held_out: of a plot that is never told otherwise.

    >>> story(random.Random(1)) == story(random.Random(1))
    True
    """
    while True:
        plan = draw_plan(rng, held_out)
        text = tell(plan, make_world(rng, plan))
        if len(text.split()) <= 330:
            return text


# ---------------------------------------------------------------------------------------- check


def reachable(states, steps):
    """All states that the steps (from, to) lead to."""
    while new := {b for a, b in steps if a in states} - states:
        states = states | new
    return states


def turns_after(want):
    """The turns that a want can lead to, straight on or by complications."""
    p = plots()
    states = reachable({want.target}, {(s, b.target or s) for b in p.of("more") for s in b.sources})
    return [turn for turn in p.of("turn") if states & set(turn.sources)]


def check(p=None):
    """What does not fit together in plots.txt, as lines; none if all is well."""
    p, wrong = p or plots(), []
    known = set(World(random.Random(1), "child").values)
    known |= set("hero whom whose mine friend other a_hero a_friend".split())
    steps = {(s, b.target) for b in p.beats if b.kind in ("more", "turn") for s in b.sources}
    states = reachable({beat.target for beat in p.of("want")}, steps)
    for state in states - {*OUTCOMES, ""}:
        if not set(OUTCOMES) & reachable({state}, steps):
            wrong.append(f"no turn leads out of '{state}'")
    defined = defined_in(p)
    for beat in p.beats:
        found = [*unknown_words(p, beat, known, defined), *check_text(beat)]
        found += [f"nothing leads into '{s}'" for s in beat.sources if s not in {*states, *ENDS}]
        wrong += [f"line {beat.where}: {what}" for what in found]
    return wrong


def chosen_by(beat):
    """The words that the @ lines of a beat choose."""
    names = {name for names, _, _ in beat.choices for name in names}
    return names | {"the_" + name for name in names}


def defined_in(p):
    """The words that every way into a state has chosen: state -> set."""
    sure = {}
    for _ in range(5):  # as many as the longest way has steps
        for beat in p.of("want") + p.of("more"):
            for source in beat.sources or ("",):
                chosen = chosen_by(beat) | sure.get(source, set())
                target = beat.target or source
                sure[target] = sure[target] & chosen if target in sure else chosen
    return sure


def unknown_words(p, beat, known, defined):
    """The {words} of a beat that nobody has chosen before it, and <lists> that are not there."""
    sure = [defined.get(state, set()) for state in beat.sources]
    sure = set.intersection(*sure) if sure else set()
    for slot in sorted(beat.slots - known - chosen_by(beat) - sure):
        yield f"{{{slot}}} is not known there"
    for name in re.findall(r"<(\w+)>", beat.text + str(beat.choices)):
        if name not in p.lists:
            yield f"there is no list {name}"


OF_HERO = re.compile(r"\{(he|him|his|himself|hero|whom|whose|they|them|their|elder)\}")


def check_text(beat):
    """What is wrong with the text of a beat whatever comes before it."""
    if beat.text.count("[") != beat.text.count("]") or beat.text.count('"') % 2:
        yield "a bracket or a quotation mark is open"
    for quote in re.findall(r"\"([^\"]*)\"", beat.text):
        for slot in OF_HERO.findall(quote):
            if beat.kind != "open":
                yield f"{{{slot}}} in a speech: the hero may be the one who tells the story"


def main():
    parser = argparse.ArgumentParser(description="Write short stories for children.")
    parser.add_argument("--count", type=int, default=3, help="how many stories (3)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed, the same stories (0)")
    parser.add_argument("--held-out", action="store_true", help="of plots kept out of training")
    parser.add_argument("--check", action="store_true", help="read plots.txt and say what is wrong")
    args = parser.parse_args()
    if args.check:
        raise SystemExit("\n".join(check()) or 0)
    for number in range(args.count):
        print(story(random.Random(f"{args.seed}/{number}"), args.held_out), end="\n\n")


if __name__ == "__main__":
    main()
