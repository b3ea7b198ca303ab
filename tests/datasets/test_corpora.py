"""Texts and judgements as they are distributed."""

from collections import Counter

import pytest

from geomkit.datasets.corpora import analogies, bbc, newsgroups, simlex999, texts_hash, wordsim353


@pytest.mark.real
@pytest.mark.parametrize(("split", "documents"), [("train", 11_293), ("test", 7_528)])
def test_newsgroups(split, documents):
    corpus = newsgroups(split)

    assert len(corpus.texts) == len(corpus.labels) == len(corpus.categories) == documents
    assert len(set(corpus.categories)) == 20
    assert len(set(corpus.labels)) == documents
    assert all(corpus.texts)
    assert {"alt.atheism", "sci.space", "talk.religion.misc"} < set(corpus.categories)
    assert set("".join(corpus.texts[:500])) == set("abcdefghijklmnopqrstuvwxyz ")


@pytest.mark.real
def test_bbc_keeps_the_first_of_equal_articles():
    corpus = bbc()

    assert len(set(corpus.texts)) == len(corpus.texts) == len(corpus.categories) == 2_127
    assert set(corpus.categories) == {"business", "entertainment", "politics", "sports", "tech"}
    assert corpus.note == "98 duplicates of earlier articles dropped"
    assert corpus.labels[0] == "business/001"
    assert all(label.startswith(f"{topic}/") for label, topic in zip(corpus.labels, corpus.categories, strict=True))
    assert list(corpus.labels) == sorted(corpus.labels)


@pytest.mark.real
def test_bbc_reads_its_one_article_in_latin_1():
    corpus = bbc()
    assert "a £15.8m signin" in corpus.texts[corpus.labels.index("sports/199")]


def test_wordsim_and_simlex_have_all_their_pairs():
    related, similar = wordsim353(), simlex999()

    assert (len(related), len(similar)) == (353, 999)
    assert related[0] == ("love", "sex", 6.77)
    assert similar[0] == ("old", "new", 1.58)
    assert all(0 <= score <= 10 for _, _, score in related + similar)


def test_analogies_by_section():
    sections = analogies()

    assert len(sections) == 14
    assert sum(map(len, sections.values())) == 19_544
    assert sections["family"][0] == ("boy", "girl", "brother", "sister")
    assert Counter(len(question) for questions in sections.values() for question in questions) == {4: 19_544}


def test_hash_of_texts_knows_where_they_are_cut():
    assert texts_hash(["ab", "c"]) != texts_hash(["a", "bc"])
    assert texts_hash(["a", "b"]) != texts_hash(["b", "a"])
    assert texts_hash(["a", "b"]) == texts_hash(("a", "b"))
