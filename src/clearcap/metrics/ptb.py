"""The rules by which Stanford's PTBTokenizer (CoreNLP 3.4.1) cuts English text, in our own words."""

from __future__ import annotations

import unicodedata
from functools import cache

from clearcap.metrics.lexer import Rule, Scanner


def ranges(text: str) -> frozenset[str]:
    """ "0041-005a 00b5" -> the characters of those code points."""
    found: set[str] = set()
    for part in text.split():
        first, _, last = part.partition("-")
        found.update(map(chr, range(int(first, 16), int(last or first, 16) + 1)))
    return frozenset(found)


def words(text: str) -> str:
    """A list of words as alternatives of a regular expression."""
    return "|".join(text.split())


# Letters and digits of the basic plane that unicode gained after the tokenizer was built.
NEWER = ranges(
    "037f 0528-052f 0560 0588 05ef 0860-086a 0870-0887 0889-088f 08a1 08ad-08c9 0978 0980 09fc 0af9 0c34 "
    "0c5a-0c5d 0c80 0cdc-0cdd 0d04 0d54-0d56 0d5f 0de6-0def 0e86 0e89 0e8c 0e8e-0e93 0e98 0ea0 0ea8-0ea9 "
    "0eac 13f5 13f8-13fd 16f1-16f8 170d 171f 1878 191d-191e 19b0-19c0 19c8-19c9 1b4c 1c80-1c8a 1c90-1cba "
    "1cbd-1cbf 1cf2-1cf3 1cfa 2c2f 2c5f 312e-312f 31bb-31bf 4db6-4dbf 9fcd-9fff a698-a69d a78f a794-a79f "
    "a7ab-a7f7 a8fd-a8fe a9e0-a9e4 a9e6-a9fe aa7e-aa7f ab30-ab5a ab5c-ab69 ab70-abbf"
)
MARKS = ranges(  # accents and vowel signs, which may stand inside or at the start of a word
    "00ad 02c2-02c5 02d2-02df 02e5-02eb 02ed 02ef-036f 0375 0378-0379 0384-0385 03f6 0483-0487 055a-055f "
    "0591-05bd 05bf 05c1-05c2 05c4-05c5 05c7 0615-061a 064b-065e 0670 06d6-06e4 06e7-06ed 06fd-06fe 070f "
    "0711 0730-074c 07a6-07b0 07eb-07f3 0900-0903 093c 093e-094e 0951-0955 0962-0963 0981-0983 09bc "
    "09be-09c4 09c7-09c8 09cb-09cd 09d7 09e2-09e3 0a01-0a03 0a3c 0a3e-0a4f 0a81-0a83 0abc 0abe-0acf 0b82 "
    "0bbe-0bc2 0bc6-0bc8 0bca-0bcd 0c01-0c03 0c3e-0c56 0d3e-0d44 0d46-0d48 0e31 0e34-0e3a 0e47-0e4e 0eb1 "
    "0eb4-0ebc 0ec8-0ecd"
)
SYMBOLS = ranges(  # each one a token
    "0025-0026 002b 005c 005e 007c 007e 00a6-00a9 00ac 00ae-00b1 00b4 00b6-00b8 00d7 00f7 0387 05be 05c0 "
    "05c3 05c6 05f3-05f4 0600-0603 0606-060a 060c 0614 061b 061e 066a 066d 0703-070d 07f6-07f8 0964-0965 "
    "0e4f 1fbd 2016-2017 2020-2023 2030-2038 203b 203e-2042 2044 207a-207e 208a-208e 2100-214f 2190-2bff "
    "3012 30fb ff01-ff0f ff1a-ff20 ff3b-ff40 ff5b-ff65"
)


MONTHS = words("Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec")
DAYS = words("Mon Tue Tues Wed Thu Thurs Fri")
STATES = words(  # a bracketed capital must be one: "ill." is rather a word than Illinois
    "Ala Ariz [A]z [A]rk Calif Colo Conn Ct Dak [D]el Fla Ga [I]ll Ind Kans? Ky [L]a [M]ass Md Mich Minn [M]iss "
    "Mo Mont Neb Nev Okla [O]re [P]a Penn Tenn [T]ex Va Vt [W]ash Wisc? Wyo"
)
TITLES = words(
    "Mr Mrs Ms Mme [M]iss Drs? Profs? Sens? Reps? Attys? Lt Col Gen Messrs Govs? Adm Rev Maj Sgt Cpl Pvt Capt "
    "Ste? Ave Pres Lieut Hon Brig Co?mdr Pfc Spc Supts? Det Mt Ft Adj Adv Asst Assoc Ens Insp Mlle Msgr Sfc"
)
AFTER_NAMES = words("Jr Sr Bros (Ed|Ph)\\.D Blvd Rd Esq")
COMPANIES = words("Inc Cos? Corp Pp?t[ye]s? Ltd Plc Rt Bancorp Bhd Assn Univ Intl Sys")
SHORTENED = words("Invt Elec Natl M[ft]g Dept Ph Treas")
MEASURES = words("tel est ext sq")
SENTENCE_STARTS = words(  # after "U.S." these begin a new sentence, when capitalised
    "[A]bout [A]ccording [A]dditionally [A]fter [A]n [A] [A]s [A]t [B]ut [E]arlier [H]e [H]er [H]ere [H]owever "
    "[I]f [I]n [I]t [L]ast [M]any [M]ore [M]r\\. [M]s\\. [N]ow [O]nce [O]ne [O]ther [O]ur [S]he [S]ince [S]o "
    "[S]ome [S]uch [T]hat [T]he [T]heir [T]hen [T]here [T]hese [T]hey [T]his [W]e [W]hen [W]hile [W]hat [Y]et [Y]ou"
)
ENDINGS = words(
    "bat bmp c class cgi cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php pl png ppt ps "
    "py sql tar txt wav x xml zip"
)
PATTERNS = {
    "SPACE": r"[ \t\u00a0\u2000-\u200a\u3000]",
    "ANY": r".|[\n\r\v\f\u0085\u2028\u2029]",
    "NEWLINE": r"\r|\r?\n|[\u2028\u2029\v\f\u0085]",
    "BLANK": r"{SPACE}|{NEWLINE}",
    "NAME": r"[A-Za-z][A-Za-z0-9_:.\-]*",
    "VALUE": r"'[^'\n]*'|\"[^\"\n]*\"",
    "TAG": r"<([!?][A-Za-z\-][^>\r\n]*|/{NAME}[ ]*|{NAME}([ ]+{NAME}([ ]*=[ ]*({VALUE}))?)*[ ]*/?[ ]*)>",
    "SENTENCE": r"{BLANK}({BLANK}|{UPPER}|{TAG})",
    "APOS": r"['\u0092\u2019]|&apos;",
    "APOS_ANY": r"{APOS}|[`\u0091\u2018\u201b]",
    "LETTER": r"{L}|&[aeiouAEIOU](acute|grave|uml);|{MARK}",
    "WORD": r"{LETTER}({LETTER}|{D})*([.!?]{LETTER}({LETTER}|{D})*)*",
    "HYPHEN": r"[-_\u058a\u2010\u2011]",
    "AMP": r"&amp;",
    "PAUSE": r"[,;:\u3001]",
    "NUMBER": r"[-+]?({D}+|{D}*([.:,\u00ad\u066b\u066c]{D}+)+)",
    "DATE": r"{D}{1,2}[-/]{D}{1,2}[-/]{D}{2,4}",
    "SMALL_NUMBER": r"[\u207a\u207b\u208a\u208b]?([\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+|[\u2080-\u2089]+)",
    "FRACTION": r"({D}{1,4}[- \u00a0])?{D}{1,4}(\\?/|\u2044){D}{1,4}",
    "ELIDED": r"[dDoOlL]{APOS_ANY}({L}|{D})",
    "THING": r"({ELIDED})?({L}|{D})+({HYPHEN}({ELIDED})?({L}|{D})+)*",
    "DOTTED": r"[A-Za-z](\.[A-Za-z])+|(Canada|Sino|Korean|EU|Japan|non)-U\.S|U\.S\.-(U\.K|U\.S\.S\.R)",
    "ACRONYM": r"{DOTTED}|[A-Za-z]",
    "HYPHENATED": r"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(-([A-Za-z0-9\u00ad]+|({DOTTED})\.))+",
    "JOINED": r"[A-Z]+(([+&]|{AMP})[A-Z]+)+",
    "SLASHED": r"[A-Za-z0-9]+(-[A-Za-z]+){0,2}(\\?/[A-Za-z0-9]+(-[A-Za-z]+){0,2}){1,2}",
    "CLITIC": r"{APOS}([msdMSD]|re|ve|ll)",
    "NOT": r"n{APOS_ANY}t",
    "VERB": r"[A-Za-z\u00ad]*[A-MO-Za-mo-z]\u00ad*",
    "SHORT": rf"({MONTHS}|{DAYS}|{STATES}|{COMPANIES}|{MEASURES}|{AFTER_NAMES}|etc|al|seq|bldg)\.",
    "NUMBERED": r"(ca|figs?|prop|nos?|art|bldg|op|pp)\.",
    "CALLED": rf"[A-Za-z]|{TITLES}|vs|Alex|Wm|Jos|Cie|a\.k\.a|cf|{{ACRONYM}}|{SHORTENED}",
    "CONTRACTED": (
        r"{APOS}n{APOS}?|[lLdDjJ]{APOS}|Dunkin{APOS}|somethin{APOS}|ol{APOS}|{APOS}em|"
        r"[A-HJ-XZn]{APOS_ANY}{L}{2}{L}*|{APOS}[2-9]0s|{APOS}till?|"
        r"{L}{L}*[aeiouyAEIOUY]{APOS_ANY}[aeiouA-Z]{L}*|{APOS}cause|cont'd\.?|nor'easter|c'mon|e'er|s'mores|"
        r"ev'ry|li'l|nat'l|o{APOS_ANY}o"
    ),
    "FILE": rf"({{LETTER}}|{{D}})+(\.({{LETTER}}|{{D}})+)*\.({ENDINGS})",
    "URL": r"https?://[^ \t\n\f\r\"<>|(){}]+[^ \t\n\f\r\"<>|.!?(){},\-]",
    "SITE": (
        r"((www\.([^ \t\n\f\r\"<>|.!?(){},]+\.)+[a-zA-Z]{2,4})|"
        r"(([^ \t\n\f\r\"`'<>|.!?(){},-_$]+\.)+(com|net|org|edu)))"
        r"(/[^ \t\n\f\r\"<>|()]+[^ \t\n\f\r\"<>|.!?(){},\-])?"
    ),
    "MAIL": (
        r"(<|&lt;)?[a-zA-Z0-9][^ \t\n\f\r\"<>|(){}\u00a0]*@([^ \t\n\f\r\"<>|(){}.\u00a0]+\.)*"
        r"([^ \t\n\f\r\"<>|(){}.\u00a0]+)(>|&gt;)?"
    ),
    "PHONE": (
        r"(\([0-9]{2,3}\)[ \u00a0]?|(\+\+?)?([0-9]{2,4}[- \u00a0])?[0-9]{2,4}[- \u00a0])[0-9]{3,4}[- \u00a0]?"
        r"[0-9]{3,5}|((\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}"
    ),
    "SMILEY": r"[<>]?[:;=]['\-o*]?[()DPdpO\\{@|\[\]]",
    "ASIAN_SMILEY": (
        r"[\^x=~<>]\.\[\^x=[^<\n]*<>\]|[\-\^x=~<>']_[\-\^x=~<>']|\([\-\^x=~<>'][_.]?[\-\^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\)"
    ),
    "DOTS": r"\.{3,5}|(\.[ \u00a0]){2,4}\.|[\u0085\u2026]",
    "QUOTE": (
        r"{APOS}|''|[`\u2018\u2019\u201a\u201b\u201c\u201d\u0091\u0092\u0093\u0094\u201e\u201f\u2039\u203a\u00ab"
        r"\u00bb]{1,2}"
    ),
    "DOUBLE": r"\"|&quot;",
    "FIXED": (
        r"-(RRB|LRB|RCB|LCB|RSB|LSB)-|C\.D\.s|pro-|anti-|S(&|&amp;)P-500|S(&|&amp;)Ls|Cap{APOS}n|c{APOS}est"
    ),
}
RULES = (
    Rule("split 3", "cannot|'twas"),
    Rule("split 2", "gonna|gotta|lemme|gimme|wanna|'tis"),
    Rule("tag", "{TAG}"),
    Rule("dash", r"&(MD|mdash|ndash);|[\u0096\u0097\u2013-\u2015]"),
    Rule("ampersand", "{AMP}"),
    Rule("plain", "&(HT|TL|UR|LR|QC|QL|QR|odq|cdq|#[0-9]+);"),
    Rule("word", "{WORD}", "{CLITIC}"),
    Rule("word", "{VERB}", "{NOT}"),
    Rule("word", "{WORD}"),
    Rule("plain", "{CONTRACTED}"),
    Rule("plain", "y{APOS}", "{L}"),
    Rule("plain", "{URL}|{SITE}|{MAIL}|@[a-zA-Z_][a-zA-Z_0-9]*|#({LETTER})+"),
    Rule("closing", "{CLITIC}|{NOT}", "[^A-Za-z]"),
    Rule("plain", "{DATE}"),
    Rule("soft", "{NUMBER}"),
    Rule("plain", "{SMALL_NUMBER}"),
    Rule("spaced", "{FRACTION}"),
    Rule("fraction", r"[\u00bc\u00bd\u00be\u2153-\u215e]"),
    Rule("ampersand", "{FIXED}"),
    Rule("plain", r"C\+\+|[CFcf]#|{SLASHED}|[A-Z]*\$|#"),
    Rule("money", "{MONEY}"),
    Rule("sentence", r"({ACRONYM})\.", rf"({{BLANK}})+({SENTENCE_STARTS}|{{TAG}})({{BLANK}})"),
    Rule("sentence", "{SHORT}", "{SENTENCE}"),
    Rule("plain", "{SHORT}", "({ANY})({ANY})"),
    Rule("sentence", "{SHORT}"),
    Rule("plain", r"(pt(e|y)|co)\.", "{SPACE}(ltd|lim)"),
    Rule("plain", "{NUMBERED}", "({BLANK})?{D}"),
    Rule("plain", r"({CALLED})\."),
    Rule("plain", "{CALLED}", "{SPACE}"),
    Rule("plain", "{ACRONYM}", "{BLANK}"),
    Rule("plain", "{APOS}[0-9][0-9]", "{BLANK}"),
    Rule("plain", "{FILE}", "({BLANK})|[.?!,]"),
    Rule("soft", r"{WORD}\.", "{PAUSE}"),
    Rule("phone", "{PHONE}"),
    Rule("opening", "{DOUBLE}", "[A-Za-z0-9$]"),
    Rule("closing", "{DOUBLE}"),
    Rule("skip", r"\u007f"),
    Rule("<", "<|&lt;"),
    Rule(">", ">|&gt;"),
    Rule("bracket", r"[\[\](){}]"),
    Rule("smiley", "{SMILEY}", "[^A-Za-z0-9]"),
    Rule("smiley", "{ASIAN_SMILEY}"),
    Rule("hyphens", "-+"),
    Rule("dots", "{DOTS}"),
    Rule("plain", r"@+|#+|_+|\*+|(\\\*){1,3}|{PAUSE}|[?!]+|=|/"),
    Rule("plain", r"[.\u00a1\u00bf\u037e\u0589\u061f\u06d4\u0700-\u0702\u07fa\u3002]"),
    Rule("soft", r"{HYPHENATED}\.", "{PAUSE}"),
    Rule("soft", "{HYPHENATED}"),
    Rule("plain", r"{THING}\.", "{PAUSE}"),
    Rule("plain", "{THING}"),
    Rule("ampersand", r"{JOINED}\.", "{PAUSE}"),
    Rule("ampersand", "{JOINED}"),
    Rule("opening", "'", r"[A-Za-z][^ \t\n\r\u00a0]"),
    Rule("closing", "{CLITIC}|{NOT}|{QUOTE}"),
    Rule("plain", "<<|>>|{SYMBOL}"),
    Rule("skip", r"\u0000|{SPACE}+|[\u200b\u200e\u200f\ufeff]|{NEWLINE}|&nbsp;|."),
)


def _of_categories(categories: tuple[str, ...]) -> frozenset[str]:
    return frozenset(c for c in map(chr, range(0x10000)) if unicodedata.category(c).startswith(categories))


@cache
def scanner() -> Scanner:
    """The scanner (built once): `Match.rule` names the kind of token, as `RULES` lists them."""
    letters = (_of_categories(("L",)) - NEWER) | ranges("1885-1886")
    capitals = frozenset(c for c in letters if c.isupper()) - ranges("13a0-13f4")
    capitals |= ranges("2160-216f 24b6-24cf")
    sets = {
        "L": letters,
        "UPPER": capitals,
        "D": _of_categories(("Nd",)) - NEWER,
        "MARK": MARKS,
        "SYMBOL": SYMBOLS,
        "MONEY": ranges("0080 00a2-00a5 060b 0e3f 20a0 20a4 20ac ffe0-ffe1 ffe5-ffe6"),
    }
    return Scanner(RULES, PATTERNS, sets)
