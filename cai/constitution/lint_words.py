"""The English words and patterns that the lint rules look for. What they mean together is said by the rules."""

import re


def words_of(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)?", text.lower())


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that judge without saying by what: a text made of these and function words asks for nothing.
VAGUE = _set(
    """good better best great ideal nice fine ok okay appropriate proper suitable acceptable right wrong bad worse worst
    quality high higher improve improved improvement improvements issue issues problem problems flaw flaws mistake
    preferable prefer preferred choose pick select rewrite revise change make fix edit rephrase identify name say point
    find discuss explain describe list check response responses answer answers reply replies assistant user request
    last previous overall generally possible needed necessary really very thing things anything something way ways
    """
)
FUNCTION_WORDS = _set(
    """a an the this that these those it its is are was were be been being do does did has have had can could would
    should will may might must to of in on at by for from with as if so than then and or but not no nor any all some
    each every which what who whom whose how where when why there here out up about into over under more most less
    least much many please you your yours we our i me my he she they them their one two please also only just
    """
)
NEGATION = re.compile(
    r"\b(not|no longer|no|never|avoid(s|ing)?|without|remov(e|es|ing)|refrain(s|ing)?|cannot|stop(s|ping)?|delet(e|ing)"
    r"|omit(s|ting)?|nothing|none|neither|nor|eliminat(e|ing)|strip(ping)?|cut(ting)? out|drop(ping)?|leave out)\b"
    r"|n['’]t\b",
    re.IGNORECASE,
)
CLAUSE = re.compile(r"[.;:,!?\n–—]+|(?=\b(?:but|while|instead|yet|then)\b)|\band\b", re.IGNORECASE)
PURPOSES = _set("so to in with by into as but instead")
CARRIER = re.compile(
    r"^\W*(please\s+)?(rewrite|revise|change|edit|rephrase|improve|rework)(\s+\w+){0,3}"
    r"\s+(response|answer|reply|text|it)\W*(so that it)?\W*$",
    re.IGNORECASE,
)
UNWRITTEN = r"(?:TODO|FIXME|TBD|XXX+)"
PLACEHOLDER = re.compile(
    rf"\b{UNWRITTEN}\b"
    r"|(?i:\blorem ipsum\b|\bplaceholder\b)|\{\{?\s*\w+\s*\}?\}|<[a-z][a-z _-]*>"
    r"|\[(?i:insert|your|fill|describe)\b[^\]]*\]|^\W*$"
)
ONLY_PLACEHOLDER = re.compile(rf"[\s.…?_-]*+{UNWRITTEN}?[\s.…?_-]*+")
MARKUP = re.compile(
    r"\b(?i:answer|response|option|reply|choice|candidate)s?\s+\(?[AB]\b\)?|(?<!\w)\([AB]\)|\bA or B\b|\bA and B\b"
    r"|\[[0-9a-f]{4}\]|<\|[^|]*\|>|\[/?INST\]|<</?SYS>>|</?s>|</?think>|`{3}"
    r"|(?i:\b(?:critique|revision) ?request:)|\b(?:Human|Assistant|User|System):"
)
ASKS = _set(
    """identify say name point list explain find check describe discuss note tell show quote look see consider judge
    state spot mark highlight review examine assess determine decide ask think search read compare count report note
    is are was were do does did has have can could would should will which what where how who whose why when in
    """
)
TELLS = _set(
    """rewrite revise change make edit rephrase write give replace keep remove add answer say state admit explain tell
    correct shorten lengthen cut turn put soften move name offer help decline refuse improve rework take let respond
    reply please adjust restate simplify expand remake drop delete use show point address include acknowledge provide
    mark separate be start begin lead open treat follow complete finish bring return persuade respond work correct
    """
)
STATES = _set(
    """a an the this that these those it its they their he she we our you your i my one there is are was were has have
    should must can could would will may might does did
    """
)
COMPARES = _set("choose pick prefer select name say decide which whose what in of where for")
LIST = re.compile(r"\bis (?:the )?((?:more |most )?\w+, (?:more |most )?\w+,? and (?:more |most )?\w+)\W*\Z")
LOOKALIKES = frozenset({"CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "FULLWIDTH", "MATHEMATICAL"})
HIDDEN = re.compile("[\u00ad\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
RESTRAINS = re.compile(
    r"\b(harm\w*|danger\w*|unsafe|illegal|toxic|violen\w*|criminal\w*|crimes?|abus\w*|offensive|unethical|weapons?"
    r"|hurt\w*)\b",
    re.IGNORECASE,
)
HELPS = re.compile(
    r"\b(helpful\w*|useful|usefully|refus\w*|declin\w*|preach\w*|lectur\w*|moraliz\w*|moralis\w*|overcautious"
    r"|over-cautious|needless\w*|answers? the question|complete\w*)\b",
    re.IGNORECASE,
)
HONEST = re.compile(
    r"\b(honest\w*|true|truth\w*|false\w*|accura\w*|inaccura\w*|correct|incorrect|made[- ]up|invent\w*|fabricat\w*"
    r"|certain\w*|uncertain\w*|confiden\w*|mislead\w*|decei\w*|decept\w*|guess\w*|know|knows|known)\b",
    re.IGNORECASE,
)
# Comparatives that name a direction on a scale of their own.
DIRECTIONS = {
    "shorter": ("length", -1),
    "briefer": ("length", -1),
    "longer": ("length", 1),
    "safer": ("safe", 1),
    "riskier": ("safe", -1),
    "simpler": ("simple", 1),
    "warmer": ("warm", 1),
    "colder": ("warm", -1),
    "friendlier": ("warm", 1),
    "stricter": ("strict", 1),
    "bolder": ("bold", 1),
}
QUALITIES = {
    "concise": ("length", -1),
    "brief": ("length", -1),
    "succinct": ("length", -1),
    "detailed": ("length", 1),
    "thorough": ("length", 1),
    "lengthy": ("length", 1),
    "verbose": ("length", 1),
    "dangerous": ("safe", -1),
    "risky": ("safe", -1),
    "safe": ("safe", 1),
    "complicated": ("simple", -1),
    "complex": ("simple", -1),
    "informal": ("formal", -1),
    "casual": ("formal", -1),
    "unhelpful": ("helpful", -1),
    "dishonest": ("honest", -1),
    "harmless": ("harmful", -1),
    "impolite": ("polite", -1),
    "certain": ("certain", 1),
    "uncertain": ("certain", -1),
    "hedged": ("certain", -1),
    "cautious": ("bold", -1),
}
CLAIM = re.compile(r"\b(more|most|less|least|not|never|without being|fewer)\s+(?:\w+ly\s+)?([a-z-]+)")
