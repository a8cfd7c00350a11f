"""English and Spanish forms of the twenty verbs that mini's corpus is made of.

Regular forms come from spelling rules, irregular ones from the two tables below. `FORMS_ES`
leaves out *be* (ser or estar), *like* (gustar turns the persons round), *look* and *watch*
(both mirar): a single Spanish form would be wrong there. Past participles and infinitives do not
vary with the person. Pure data and pure functions; no randomness.
"""

VERBS = (
    *("work", "play", "walk", "talk", "listen", "watch", "study", "finish", "start", "look"),
    *("want", "like", "be", "have", "do", "go", "come", "see", "eat", "write"),
)
TENSES = ("infinitive", "present_simple", "past_simple", "past_participle", "simple_future")
PERSONS = ("1sg", "2sg", "3sg")

# verb: (third person present, past, past participle); `be` varies more and stands in `_BE`.
_IRREGULAR_EN = {
    "have": ("has", "had", "had"),
    "do": ("does", "did", "done"),
    "go": ("goes", "went", "gone"),
    "come": ("comes", "came", "come"),
    "see": ("sees", "saw", "seen"),
    "eat": ("eats", "ate", "eaten"),
    "write": ("writes", "wrote", "written"),
}
_BE = {"present_simple": ("am", "are", "is"), "past_simple": ("was", "were", "was")}

SPANISH_INFINITIVE = {
    "work": "trabajar",
    "play": "jugar",
    "walk": "caminar",
    "talk": "hablar",
    "listen": "escuchar",
    "study": "estudiar",
    "finish": "terminar",
    "start": "empezar",
    "want": "querer",
    "have": "tener",
    "do": "hacer",
    "go": "ir",
    "come": "venir",
    "see": "ver",
    "eat": "comer",
    "write": "escribir",
}
_ENDINGS_ES = {
    "ar": {"present_simple": ("o", "as", "a"), "past_simple": ("é", "aste", "ó"), "past_participle": "ado"},
    "er": {"present_simple": ("o", "es", "e"), "past_simple": ("í", "iste", "ió"), "past_participle": "ido"},
    "ir": {"present_simple": ("o", "es", "e"), "past_simple": ("í", "iste", "ió"), "past_participle": "ido"},
}
_FUTURE_ES = ("é", "ás", "á")
# Only what the rules above get wrong: whole persons, a participle, or the stem of the future.
_IRREGULAR_ES: dict[str, dict[str, tuple[str, str, str]]] = {
    "jugar": {
        "present_simple": ("juego", "juegas", "juega"),
        "past_simple": ("jugué", "jugaste", "jugó"),
    },
    "empezar": {
        "present_simple": ("empiezo", "empiezas", "empieza"),
        "past_simple": ("empecé", "empezaste", "empezó"),
    },
    "querer": {
        "present_simple": ("quiero", "quieres", "quiere"),
        "past_simple": ("quise", "quisiste", "quiso"),
    },
    "tener": {"present_simple": ("tengo", "tienes", "tiene"), "past_simple": ("tuve", "tuviste", "tuvo")},
    "hacer": {
        "present_simple": ("hago", "haces", "hace"),  # codespell:ignore hace
        "past_simple": ("hice", "hiciste", "hizo"),
    },
    "ir": {"present_simple": ("voy", "vas", "va"), "past_simple": ("fui", "fuiste", "fue")},  # codespell:ignore vas
    "venir": {"present_simple": ("vengo", "vienes", "viene"), "past_simple": ("vine", "viniste", "vino")},
    "ver": {"present_simple": ("veo", "ves", "ve"), "past_simple": ("vi", "viste", "vio")},
}
_PARTICIPLE_ES = {"hacer": "hecho", "ver": "visto", "escribir": "escrito"}
_FUTURE_STEM_ES = {"querer": "querr", "tener": "tendr", "hacer": "har", "venir": "vendr"}


def english(verb: str, tense: str, person: str) -> str:
    """The English form, without the auxiliary: `walk` for the future, `walked` for the participle."""
    if tense in ("infinitive", "simple_future"):
        return verb
    if verb == "be":
        return "been" if tense == "past_participle" else _BE[tense][PERSONS.index(person)]
    third, past, participle = _IRREGULAR_EN.get(verb) or _regular(verb)
    if tense == "present_simple":
        return third if person == "3sg" else verb
    return past if tense == "past_simple" else participle


def spanish(verb: str, tense: str, person: str) -> str | None:
    """The Spanish form of one word (`trabajaré`), or None where the verb has no single translation."""
    infinitive = SPANISH_INFINITIVE.get(verb)
    if infinitive is None or tense == "infinitive":
        return infinitive
    number = PERSONS.index(person)
    if tense == "simple_future":
        return _FUTURE_STEM_ES.get(infinitive, infinitive) + _FUTURE_ES[number]
    stem, endings = infinitive[:-2], _ENDINGS_ES[infinitive[-2:]]
    if tense == "past_participle":
        return _PARTICIPLE_ES.get(infinitive, stem + str(endings["past_participle"]))
    irregular = _IRREGULAR_ES.get(infinitive, {}).get(tense)
    return irregular[number] if irregular else stem + endings[tense][number]


def _regular(verb: str) -> tuple[str, str, str]:
    """Third person, past and participle of a regular verb."""
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies", verb[:-1] + "ied", verb[:-1] + "ied"
    third = verb + ("es" if verb.endswith(("ch", "sh", "s", "x", "o")) else "s")
    past = verb + ("d" if verb.endswith("e") else "ed")
    return third, past, past
