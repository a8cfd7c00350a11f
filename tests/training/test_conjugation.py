"""English and Spanish verb forms against known answers."""

import pytest

from conjugation import PERSONS, TENSES, VERBS, english, spanish

# Written out by hand, in the order of PERSONS for the present and the past.
ENGLISH = {
    "work": ("work work works", "worked", "worked"),
    "play": ("play play plays", "played", "played"),
    "watch": ("watch watch watches", "watched", "watched"),
    "study": ("study study studies", "studied", "studied"),
    "finish": ("finish finish finishes", "finished", "finished"),
    "like": ("like like likes", "liked", "liked"),
    "have": ("have have has", "had", "had"),
    "do": ("do do does", "did", "done"),
    "go": ("go go goes", "went", "gone"),
    "come": ("come come comes", "came", "come"),
    "see": ("see see sees", "saw", "seen"),
    "eat": ("eat eat eats", "ate", "eaten"),
    "write": ("write write writes", "wrote", "written"),
}
SPANISH = {
    "work": ("trabajo trabajas trabaja", "trabajé trabajaste trabajó", "trabajado", "trabajaré"),
    "play": ("juego juegas juega", "jugué jugaste jugó", "jugado", "jugaré"),
    "start": ("empiezo empiezas empieza", "empecé empezaste empezó", "empezado", "empezaré"),
    "want": ("quiero quieres quiere", "quise quisiste quiso", "querido", "querré"),
    "have": ("tengo tienes tiene", "tuve tuviste tuvo", "tenido", "tendré"),
    "do": ("hago haces hace", "hice hiciste hizo", "hecho", "haré"),  # codespell:ignore hace
    "go": ("voy vas va", "fui fuiste fue", "ido", "iré"),  # codespell:ignore vas
    "come": ("vengo vienes viene", "vine viniste vino", "venido", "vendré"),
    "see": ("veo ves ve", "vi viste vio", "visto", "veré"),
    "eat": ("como comes come", "comí comiste comió", "comido", "comeré"),
    "write": ("escribo escribes escribe", "escribí escribiste escribió", "escrito", "escribiré"),
}


@pytest.mark.parametrize("verb", ENGLISH)
def test_english_forms_follow_spelling_rules_and_irregular_verbs(verb):
    """Third person, past and participle are the ones of a grammar book."""
    present, past, participle = ENGLISH[verb]
    assert present.split() == [english(verb, "present_simple", p) for p in PERSONS]
    assert [past] * 3 == [english(verb, "past_simple", p) for p in PERSONS]
    assert [participle] * 3 == [english(verb, "past_participle", p) for p in PERSONS]


def test_be_has_its_own_persons():
    """*Be* is the only verb whose past depends on the person."""
    assert [english("be", "present_simple", p) for p in PERSONS] == ["am", "are", "is"]
    assert [english("be", "past_simple", p) for p in PERSONS] == ["was", "were", "was"]
    assert english("be", "past_participle", "2sg") == "been"


@pytest.mark.parametrize("verb", VERBS)
def test_infinitive_and_future_are_the_bare_verb(verb):
    """The auxiliary is the template's, not the form's."""
    assert verb == english(verb, "infinitive", "3sg") == english(verb, "simple_future", "1sg")


@pytest.mark.parametrize("verb", SPANISH)
def test_spanish_forms_follow_endings_and_irregular_verbs(verb):
    """Present, preterite, participle and future are the ones of a grammar book."""
    present, past, participle, future = SPANISH[verb]
    assert present.split() == [spanish(verb, "present_simple", p) for p in PERSONS]
    assert past.split() == [spanish(verb, "past_simple", p) for p in PERSONS]
    assert [participle] * 3 == [spanish(verb, "past_participle", p) for p in PERSONS]
    stem = future.removesuffix("é")
    assert [future, stem + "ás", stem + "á"] == [spanish(verb, "simple_future", p) for p in PERSONS]


def test_verbs_without_one_translation_have_no_spanish_form():
    """*Be*, *like*, *look* and *watch* give None in every tense; all others give a short word."""
    without = {v for v in VERBS if any(spanish(v, t, p) is None for t in TENSES for p in PERSONS)}
    assert {"be", "like", "look", "watch"} == without
    forms = [spanish(v, t, p) for v in VERBS if v not in without for t in TENSES for p in PERSONS]
    assert all(form is not None and 1 < len(form) <= 30 for form in forms)
