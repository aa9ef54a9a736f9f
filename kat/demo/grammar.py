"""A grammar that makes preference pairs of known rarity, so that kat can be tried, and checked, without anyone's data.

Forty topics share one grammar and differ in how often they are asked about (Zipf), so a topic's number of openings is
the only thing that makes it crowded or rare, and weights can be compared with it. A good answer names the key tip of
the deed that was asked about; many a bad one reads as well but names another deed's tip, which only someone who has
met the topic can tell. That makes rare topics the harder ones to learn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from kat.demo.topics import TOPICS
from kat.errors import OptionError

# Shares of the pairs: how an opening comes about, how many turns follow it, what is wrong with the rejected answer.
ORIGINS = (("new", 0.41), ("repeat", 0.44), ("respaced", 0.045), ("near", 0.105))
ASKS = (("plain", 0.92), ("terse", 0.04), ("long", 0.04))
FOLLOW_UPS = ((0, 0.65), (1, 0.25), (2, 0.10))
FLAWS = (("wrong tip", 0.215), ("wrong topic", 0.16), ("rambling", 0.18), ("vague", 0.16), ("evasive", 0.12),
         ("sibling tip", 0.08), ("curt", 0.06), ("near tie", 0.025))  # fmt: skip
SYSTEM_SHARE, CURLY_SHARE, AROUND_SHARE = 0.04, 0.15, 0.45

# The ways of asking. {do} is a deed, {when} a circumstance; {Do} and {When} are the same with a capital.
PLAIN = (
    "How do I {do} {when}?", "How can I {do} {when}?", "How should I {do} {when}?",
    "What's the best way to {do} {when}?", "What is the easiest way to {do} {when}?",
    "What do I need to know to {do} {when}?", "What would an expert do to {do} {when}?",
    "Could you explain how to {do} {when}?", "Can you walk me through how to {do} {when}?",
    "Does anyone know how to {do} {when}?", "Is there a good trick to {do} {when}?",
    "Give me simple instructions to {do} {when}.", "Tell me how to {do} {when}.", "Help me {do} {when}.",
    "{When}, how do I {do}?", "{When}, what's the right way to {do}?",
    "I'd like to {do} {when}. Where do I start?", "I need to {do} {when}. Any tips?",
    "I want to {do} {when}. What matters most?", "I tried to {do} {when}, but it didn't work. What did I miss?",
    "I tried to {do} {when} but gave up halfway. What should I change?",
    "I keep failing to {do} {when}. What am I doing wrong?", "They say it's easy to {do} {when}, but how?",
    "“Just {do} {when}”, they said… but how?",
)  # fmt: skip
TERSE = ("{Do}?", "How to {do}", "{do} {when}?", "{Do} {when}, how?", "tips to {do}", "{Topic}?")
LEADS = ("Hi! ", "Hello. ", "Quick question: ", "{Topic} question: ", "I'm new to {topic}. ", "Please help. ",
         "A question about {topic}: ", "I'm getting back into {topic}. ", "Sorry if that's obvious. ")  # fmt: skip
TAILS = (" Thanks!", " Any advice is welcome.", " I only have this weekend.", " Keep it short, please.",
         " I've been into {topic} for {n} months.", " Money is tight.", " A friend and I disagree about it.",
         " I read {n} articles about {topic} and they all differ.", " I'm on attempt number {n}.")  # fmt: skip
LONG = (
    "I've been into {topic} for about {n} months. Last weekend I set out to {do} {when}, and on the whole it went "
    "badly.\n\n{ask} I also wonder how to {other}, but one thing at a time.",
    "Some background: I started with {topic} {n} years ago, after a friend showed me how to {other}. That part I can "
    "do.\n\nNow I'd like to {do} {when}. I watched three videos; each said something else. {ask}",
    "{ask}\n\nWhat I did so far: I read up on {topic}, asked around, and tried it {n} times {when}. Every time I got a "
    "little further, but I can't yet {do} as I should.",
)
FOLLOW = (
    "Thanks. And how do I {do} {when}?", "OK, but what changes if I have to {do} {when}?",
    "That makes sense. Could you also explain how to {do}?", "Great, and what's the best way to {do} {when}?",
    "Hm, I'm not sure I follow. What is the key to it when I {do} {when}?", "One more thing: how would I {do}?",
)  # fmt: skip
SYSTEMS = ("You are a helpful assistant.", "You answer questions about {topic}.",
           "Be brief and concrete. If you don't know, say so.")  # fmt: skip

# {tip} is the deed's own tip, {more} that of another deed of the same topic.
ANSWERS = (
    "The key is to {tip}.",
    "To {do} {when}, {tip}.",
    "{Tip}. Everything else matters less when you {do}.",
    "To {do} {when}, remember one thing: {tip}. Take it slowly at first, and check the result before you go on.",
    "Good question! {When}, most people get stuck at the same point. The key tip: {tip}. Once you can {do}, there is "
    "more to try; for other things in {topic}, {more}.",
    "You're nearly there. {Tip}: that is what counts when you {do}. Change one thing at a time after that.",
    "Here is how to {do} {when}:\n\n1. Get everything ready before you start.\n2. {Tip}. This is the step that "
    "decides.\n3. Check the result, and repeat if you need to.\n\nLater on in {topic}, {more}.",
    "It’s easier than it looks. To {do}, you first have to see what usually goes wrong: people rush it. So "
    "{tip}, {when} above all.\n\nWhen that works, go on with the rest of {topic}. For instance, {more}.",
)
FLAWED = {
    "curt": ("No idea.", "Google it.", "Why would you want that?", "Just {do}.", "Ask someone else.", "Try harder."),
    "vague": (
        "It depends. There are many ways to {do}, and all of them have their pros and cons.",
        "Just be patient and practise. You'll work it out sooner or later.",
        "Opinions on {topic} differ. Try a few things {when} and see what suits you.",
        "Do it the usual way, but carefully. The details depend on your situation.",
    ),
    "evasive": (
        "I'm sorry, but I can't give advice on {topic}. Please consult a professional.",
        "As a language model I have never had to {do}, so I'd rather not say. Perhaps someone near you knows.",
        "Before I answer, could you tell me more about yourself and why {topic} matters to you?",
        "That is a big subject. There are whole books about {topic}, and I suggest that you read one of them.",
    ),
}
RAMBLING = (
    "What a wonderful question, and one that so many people have asked over the years!",
    "There is so much to say about {topic} that it's hard to know where to begin.",
    "Some people love to {do}, others less so, and both are perfectly fine.",
    "In today's fast-paced world, {topic} has become more popular than ever before.",
    "My cousin once wanted to {do} as well, and in the end it was quite a story.",
    "Of course everything is connected to everything else, and nobody should forget the bigger picture.",
    "It is important to note that results may vary, and that there are several aspects to keep in mind.",
    "At the end of the day it's all about the journey, isn't it?",
)


@dataclass(frozen=True, slots=True)
class Ask:
    """One user turn with what it asks for, so that an answer can be right or wrong about it."""

    text: str
    deed: int
    when: str


@dataclass(slots=True)
class Topic:
    """A topic's vocabulary, and the openings it has had so far: repeats and near duplicates are drawn from them."""

    name: str
    circumstances: Sequence[str]
    deeds: Sequence[tuple[str, str]]
    openings: list[Ask] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    agenda: list[tuple[int, str]] = field(default_factory=list)


def demo_pairs(n_pairs: int = 4000, seed: int = 0, topics: int = 40) -> Iterator[dict[str, Any]]:
    """Yield preference pairs as rows, the same for the same arguments on every Python.

    Topic sizes are Zipf, which topic is large is drawn, and so is the order of the rows. With fewer pairs than topics,
    only so many topics occur. Each row also holds its `topic`, for comparing weights with how rare a topic is.

    Raises OptionError for a negative number of pairs, or a number of topics that the grammar does not have.
    """
    if n_pairs < 0 or not 1 <= topics <= len(TOPICS):
        expected = f"expected n_pairs >= 0 and topics from 1 to {len(TOPICS)}"
        raise OptionError(f"demo pairs: got n_pairs={n_pairs}, topics={topics}; {expected}")
    return _rows(n_pairs, Random(seed), min(topics, n_pairs))


def _rows(n_pairs: int, rng: Random, n_topics: int) -> Iterator[dict[str, Any]]:
    topics = [Topic(name, *table) for name, table in TOPICS.items()]
    rng.shuffle(topics)
    schedule = [topic for topic, size in zip(topics, zipf_sizes(n_pairs, n_topics), strict=False) for _ in range(size)]
    rng.shuffle(schedule)
    for number, topic in enumerate(schedule, 1):
        messages, ask = _conversation(rng, topic)
        chosen, rejected = _completions(rng, topic, ask, topics)
        yield {"id": f"demo-{number:05d}", "prefix": {"messages": messages}, "chosen": chosen, "rejected": rejected,
               "src": "demo", "topic": topic.name}  # fmt: skip


def zipf_sizes(total: int, parts: int) -> list[int]:
    """Split `total` into `parts` sizes in proportion to 1, 1/2, 1/3, …, none below 1 and none lost to rounding."""
    harmonic = sum(1 / rank for rank in range(1, parts + 1))
    exact = [(total - parts) / rank / harmonic for rank in range(1, parts + 1)]
    sizes = [1 + int(share) for share in exact]
    by_remainder = sorted(range(parts), key=lambda i: int(exact[i]) - exact[i])
    for i in by_remainder[: total - sum(sizes)]:
        sizes[i] += 1
    return sizes


def _conversation(rng: Random, topic: Topic) -> tuple[list[dict[str, str]], Ask]:
    """The messages up to the user's last one, and what that one asks."""
    ask = _opening(rng, topic)
    messages = [{"role": "user", "content": ask.text}]
    if rng.random() < SYSTEM_SHARE:
        messages.insert(0, {"role": "system", "content": rng.choice(SYSTEMS).format(topic=topic.name)})
    for _ in range(_pick(rng, FOLLOW_UPS)):
        messages.append({"role": "assistant", "content": _answer(rng, topic, ask)})
        ask = _ask(rng, topic, FOLLOW, rng.randrange(len(topic.deeds)), rng.choice(topic.circumstances))
        messages.append({"role": "user", "content": ask.text})
    return messages, ask


def _opening(rng: Random, topic: Topic) -> Ask:
    """A first user turn: new to the topic, or an earlier one as it was, respaced, or slightly changed."""
    origin = _pick(rng, ORIGINS) if topic.openings else "new"
    if origin in ("repeat", "respaced"):
        ask = rng.choice(topic.openings)
        return ask if origin == "repeat" else Ask(_respaced(rng, ask.text), ask.deed, ask.when)
    for _ in range(20):  # a topic that is asked about very often may have had this one
        ask = _near(rng, rng.choice(topic.openings)) if origin == "near" else _new_opening(rng, topic)
        key = " ".join(ask.text.split())
        if key not in topic.keys:
            topic.keys.add(key)
            topic.openings.append(ask)
            break
    return ask


def _new_opening(rng: Random, topic: Topic) -> Ask:
    kind = _pick(rng, ASKS)
    deed, when = _subject(rng, topic)
    if kind == "terse":
        return _ask(rng, topic, TERSE, deed, when)
    ask = _ask(rng, topic, PLAIN, deed, when)
    text = ask.text
    if kind == "long":
        do, other = topic.deeds[ask.deed][0], topic.deeds[ask.deed - 1][0]
        text = rng.choice(LONG)
        text = text.format(ask=ask.text, do=do, other=other, when=ask.when, topic=topic.name, n=rng.randrange(2, 12))
    else:
        around = [rng.choice(table) if rng.random() < AROUND_SHARE else "" for table in (LEADS, TAILS)]
        lead, tail = (x.format(topic=topic.name, Topic=_upper(topic.name), n=rng.randrange(2, 12)) for x in around)
        text = lead + text + tail
    if rng.random() < CURLY_SHARE:
        text = text.replace("'", "’")
    return Ask(text, ask.deed, ask.when)


def _subject(rng: Random, topic: Topic) -> tuple[int, str]:
    """The next deed and circumstance to ask about. Each row of a Latin square names all once, so that a small topic's
    openings are spread like a large one's and not by luck."""
    if not topic.agenda:
        shifts, deeds = list(range(len(topic.circumstances))), list(range(len(topic.deeds)))
        rng.shuffle(shifts)
        for shift in shifts:
            rng.shuffle(deeds)
            topic.agenda += [(i, topic.circumstances[(i + shift) % len(shifts)]) for i in deeds]
    return topic.agenda.pop()


def _ask(rng: Random, topic: Topic, frames: Sequence[str], deed: int, when: str) -> Ask:
    do, frame = topic.deeds[deed][0], rng.choice(frames)
    text = frame.format(do=do, Do=_upper(do), when=when, When=_upper(when), Topic=_upper(topic.name))
    return Ask(text, deed, when if when.lower() in text.lower() else "the first time")


def _respaced(rng: Random, text: str) -> str:
    """The same opening to kat, which collapses white space before it compares."""
    words = text.split(" ")
    at = rng.randrange(1, len(words)) if len(words) > 1 else 0
    head, tail = " ".join(words[:at]), " ".join(words[at:])
    return rng.choice((f"  {text}", f"{text}\n", f"{head}  {tail}", f"{head}\n{tail}", f"\t{text} "))


def _near(rng: Random, ask: Ask) -> Ask:
    """Another opening that means the same: other case, end or politeness, or a slip of the finger."""
    text, at = ask.text, rng.randrange(1, max(2, len(ask.text) - 2))
    variants = (
        text.lower(),
        text.rstrip(".?!"),
        text.rstrip(".?!") + rng.choice(("??", "!", "...", "?!", " please", ", please?", " pls")),
        text[:at] + text[at + 1] + text[at] + text[at + 2 :],
        text[:at] + text[at] + text[at:],
    )
    return Ask(rng.choice(variants), ask.deed, ask.when)


def _completions(rng: Random, topic: Topic, ask: Ask, topics: Sequence[Topic]) -> tuple[str, str]:
    """A good answer and a worse one; in a near tie, two good ones."""
    chosen = _answer(rng, topic, ask)
    flaw, rejected = _pick(rng, FLAWS), chosen
    while rejected == chosen:
        rejected = _flawed(rng, flaw, topic, ask, topics)
    return chosen, rejected


def _flawed(rng: Random, flaw: str, topic: Topic, ask: Ask, topics: Sequence[Topic]) -> str:
    if flaw == "near tie":
        return _answer(rng, topic, ask)
    if flaw == "sibling tip":
        return _answer(rng, topic, ask, topic.deeds[ask.deed - 1][1])
    if flaw in ("wrong tip", "wrong topic"):
        other = topic
        while other is topic:
            other = rng.choice(topics)
        away = Ask("", rng.randrange(len(other.deeds)), rng.choice(other.circumstances))
        return _answer(rng, topic, ask, other.deeds[away.deed][1]) if flaw == "wrong tip" else _answer(rng, other, away)
    if flaw == "rambling":
        sentences = list(RAMBLING)
        rng.shuffle(sentences)
        return _fill(" ".join(sentences[: rng.randrange(2, 6)]), topic, ask)
    return _fill(rng.choice(FLAWED[flaw]), topic, ask)


def _answer(rng: Random, topic: Topic, ask: Ask, tip: str | None = None) -> str:
    """A helpful answer, or with another's `tip` one that only sounds so."""
    more = topic.deeds[(ask.deed + 1 + rng.randrange(len(topic.deeds) - 1)) % len(topic.deeds)][1]
    return _fill(rng.choice(ANSWERS), topic, ask, tip or topic.deeds[ask.deed][1], more)


def _fill(frame: str, topic: Topic, ask: Ask, tip: str = "", more: str = "") -> str:
    do, when = topic.deeds[ask.deed][0].replace("my ", "your "), ask.when
    return frame.format(do=do, when=when, When=_upper(when), topic=topic.name, tip=tip, Tip=_upper(tip), more=more)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _pick(rng: Random, shares: Sequence[tuple[Any, float]]) -> Any:
    """One of the alternatives, by its share; the last takes what rounding leaves."""
    left = rng.random()
    for value, share in shares:
        left -= share
        if left < 0:
            return value
    return shares[-1][0]
