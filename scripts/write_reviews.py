"""Write the offline sample reviews: short, original film reviews with labels, from a grammar.

    python scripts/write_reviews.py [--out DIR]

`reviews_lexicon.json` beside this script holds the phrases. A name in braces is replaced by one of the phrases listed
under that name, and so on until no brace is left. A list with "good" and "bad" halves follows the sentiment of the
review; a minus, as in `{-clause}`, asks for the opposite. The list `plot/comedy` joins `plot` if the film is a comedy.
Part of every list is kept for the test split.
"""

import argparse
import json
import random
import re
from pathlib import Path

import pandas as pd

SEED = 3463
ROWS = {"train": 2500, "test": 1000}
WORDS = range(6, 31)
# Every n-th phrase of a list is kept for the test split, which draws from those with this probability.
PHRASES_KEPT, FRAMES_KEPT = (2, 0.7), (4, 0.3)
OPENING = 0.12  # share of reviews that begin by naming the film and what it is about
CHATTY = 0.25  # share of reviews in spoken English: contractions, interjections, exclamation marks
# A construction's share of the reviews, how many of its sentences a review has, and how likely
# a plain sentence and a closing sentence of the same sentiment follow.
CONSTRUCTIONS = {
    "dense": (0.54, (1, 1), 0.0, 0.1),
    "plain": (0.18, (1, 2), 0.0, 0.2),
    "negation": (0.08, (1, 1), 0.1, 0.2),
    "contrast": (0.08, (1, 1), 0.0, 0.2),
    "mixed": (0.03, (1, 1), 0.0, 0.0),
    "irony": (0.04, (1, 1), 0.0, 0.2),
    "comparison": (0.05, (1, 1), 0.0, 0.2),
}
FRAMES = {*CONSTRUCTIONS, "flip"}
LABELS = {"bad": 0, "good": 1}
OPPOSITE = {"bad": "good", "good": "bad"}
SAME_ALL_REVIEW = ("genre", "title", "other", "director", "star")
CONTRACTIONS = {
    "It is": "It's", "it is": "it's", "There is": "There's", "there is": "there's", "I have": "I've", "I would": "I'd",
    "could not": "couldn't", "did not": "didn't", "would not": "wouldn't", "cannot": "can't", "was not": "wasn't",
    "Do not": "Don't", "will not": "won't",
}  # fmt: skip
CAN_FOLLOW_INTERJECTION = re.compile("(It|The|There|Nothing|A|You|Not|Two|No|Although|Despite|With|Nobody|Everything) ")


class Review:
    """One review in the making: its film, and the phrases it has used."""

    def __init__(self, lexicon: dict, rng: random.Random, split: str):
        self.lexicon, self.rng, self.split = lexicon, rng, split
        self.fixed: dict[str, str] = {}
        self.used: set[tuple[str, str]] = set()
        self.expand("{genre}{title}{director}{star}", "good")

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def choose(self, options):
        # Only random() is promised to give the same numbers in every Python version.
        return options[int(self.rng.random() * len(options))]

    def phrases(self, name: str, mood: str) -> list[str]:
        """The phrases of a list which this split may show and, while there are any, this review has not used."""
        found = []
        for key in (name, f"{name}/{self.fixed.get('genre')}"):
            phrases = self.lexicon.get(key, [])
            phrases = phrases[mood] if isinstance(phrases, dict) else phrases
            every, likely = FRAMES_KEPT if name in FRAMES else PHRASES_KEPT
            seen = [phrase for number, phrase in enumerate(phrases, start=1) if number % every]
            unseen = phrases[every - 1 :: every]
            found += unseen if self.split == "test" and unseen and self.chance(likely) else seen
        return [phrase for phrase in found if (name, phrase) not in self.used] or found

    def pick(self, name: str, mood: str) -> str:
        phrase = self.choose(self.phrases(name, mood))
        self.used.add((name, phrase))
        return self.expand(phrase, mood)

    def expand(self, template: str, mood: str) -> str:
        def replace(match: re.Match) -> str:
            minus, name = match.groups()
            if name not in self.fixed:
                text = self.pick(name, OPPOSITE[mood] if minus else mood)
                if name not in SAME_ALL_REVIEW:
                    return text
                self.fixed[name] = text
            return self.fixed[name]

        return re.sub(r"\{(-?)(\w+)\}", replace, template)

    def write(self, construction: str, mood: str) -> str:
        _, (fewest, most), plain, closing = CONSTRUCTIONS[construction]
        body = [self.pick(construction, mood) for _ in range(fewest + int(self.rng.random() * (most - fewest + 1)))]
        body += [self.pick("plain", mood)] if self.chance(plain) else []
        opening = [self.pick("opening", mood)] if self.chance(OPENING) else []
        opening += [self.pick("aside", mood)] if opening and self.chance(0.25) else []
        body += [self.pick("closing", mood)] if self.chance(closing) else []
        if self.chance(CHATTY):
            body = self.speak(body)
        return self.tidy(" ".join(opening + body))

    def speak(self, sentences: list[str]) -> list[str]:
        for plain, spoken in CONTRACTIONS.items():
            sentences = [re.sub(rf"\b{plain} ", f"{spoken} ", sentence) for sentence in sentences]
        if CAN_FOLLOW_INTERJECTION.match(sentences[0]) and not sentences[0].startswith(self.fixed["title"]):
            sentences[0] = self.pick("interjection", "good") + sentences[0][0].lower() + sentences[0][1:]
        if self.chance(0.4):
            sentences[-1] = re.sub(r"\.$", "!", sentences[-1])
        return sentences

    def tidy(self, text: str) -> str:
        """Set articles and capital letters right, and shorten names which the reader knows by now."""
        shorter = {self.fixed[name]: self.fixed[name].split()[-1] for name in ("star", "director")}
        shorter[self.fixed["title"]] = "this film"
        for name, short in shorter.items():
            first, found, rest = text.partition(name)
            text = first + found + rest.replace(name, short)
        text = re.sub(r"\b([Aa]) (?=[AEIOaeio]|[Uu][ngp])(?!one)", r"\1n ", text)
        return re.sub(r"(^|[.?!] )([a-z])", lambda match: match[1] + match[2].upper(), text)


def write_rows(lexicon: dict, rng: random.Random, split: str, taken: set[str]) -> list[tuple[str, int]]:
    """Texts with labels, balanced within every construction, shuffled; texts in `taken` are not written again."""
    rows = []
    for construction, (share, *_) in CONSTRUCTIONS.items():
        for mood, label in LABELS.items():
            wanted = len(rows) + round(ROWS[split] * share / 2)
            while len(rows) < wanted:
                text = Review(lexicon, rng, split).write(construction, mood)
                if len(text.split()) in WORDS and text not in taken:
                    taken.add(text)
                    rows.append((text, label))
    return sorted(rows, key=lambda row: rng.random())


def main() -> None:
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description="Write the offline sample reviews.")
    parser.add_argument("--out", type=Path, default=here.parent / "helpers" / "offline" / "reviews")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    lexicon = json.loads((here / "reviews_lexicon.json").read_text(encoding="utf-8"))
    rng, taken = random.Random(SEED), set()
    for split in ROWS:
        rows = pd.DataFrame(write_rows(lexicon, rng, split, taken), columns=["text", "label"])
        rows.to_csv(out / f"{split}.csv", index=False, lineterminator="\n")


if __name__ == "__main__":
    main()
