"""Labels as a tree: nodes, predictions, and what tells labels apart."""

import pytest
import torch

from cpool.errors import DataError
from cpool.language import LabelTrie, LabelWords, label_trie, readable
from tests import tiny

TOKENIZER = tiny.tokenizer(special=False)


def ids(*words: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.convert_tokens_to_ids(list(words)))


def test_what_labels_share_is_one_node() -> None:
    trie = LabelTrie(("a", "b", "c"), ((1, 2, 3), (1, 2, 4), (5,)))
    assert trie.tokens == (1, 2)
    assert trie.parents == (-1, 0)
    assert trie.depths == (0, 1)
    assert trie.longest == 2
    assert trie.edges == ((-1, 1), (-1, 5), (0, 2), (1, 3), (1, 4))
    assert trie.ancestors().tolist() == [[True, False], [True, True]]
    expected = [[1, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 0], [0, 1, 0]]
    assert trie.membership().tolist() == expected
    assert trie.lengths().tolist() == [3, 3, 1]


def test_labels_of_one_token_need_no_node() -> None:
    trie = LabelTrie(("a", "b"), ((7,), (9,)))
    assert (trie.tokens, trie.longest, trie.ancestors().shape) == ((), 0, (0, 0))
    assert torch.equal(trie.membership(), torch.eye(2))


def test_a_label_that_begins_another_is_closed_and_so_are_all() -> None:
    trie = label_trie(["red", "red dog", "cat"], TOKENIZER)
    assert trie.sequences == (ids("red", "</s>"), ids("red", "dog", "</s>"), ids("cat", "</s>"))
    assert label_trie(["red", "blue dog"], TOKENIZER).sequences == (ids("red"), ids("blue", "dog"))
    closed = label_trie(["red"], TOKENIZER, end="always").sequences
    assert closed == (ids("red", "</s>"),)
    open_ = label_trie(["red", "red dog"], TOKENIZER, end="never").sequences
    assert open_ == (ids("red"), ids("red", "dog"))


def test_a_label_that_begins_another_needs_an_end_of_text() -> None:
    tokenizer = tiny.tokenizer(special=False)
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="end-of-text token"):
        label_trie(["red", "red dog"], tokenizer)
    assert label_trie(["red", "blue"], tokenizer).longest == 0


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["red", "zebra", "giraffe"], "'zebra' and 'giraffe', which are the same token"),
        (["red", "  "], "at least one token"),
    ],
)
def test_labels_that_nothing_tells_apart_are_refused(names, says) -> None:
    with pytest.raises(DataError, match=says):
        label_trie(names, TOKENIZER)


def test_a_tokenizer_that_puts_a_space_in_front_of_whatever_begins() -> None:
    class Prepends:
        """As SentencePiece with its dummy prefix: a text that begins gets one more space."""

        eos_token_id = 0

        def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
            return [ord(letter) for letter in "▁" + text.replace(" ", "▁")]

    (row,) = label_trie(["red"], Prepends()).sequences
    assert "".join(map(chr, row)) == "▁red"


def test_words_follow_the_classes() -> None:
    words = LabelWords(TOKENIZER)
    words.name(["red_dog", "blueBird", "cat"])
    words.name(["other", "names", "later"])
    words.classes = [2, 0]
    assert words.trie.names == ("cat", "red dog")
    words.classes = [2, 0, 1]
    assert words.trie.names == ("cat", "red dog", "blue bird")
    with pytest.raises(DataError, match="class 3"):
        words.of([3])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SearchScreeningEvent", "search screening event"),
        ("card_payment_fee_charged", "card payment fee charged"),
        ("sci/tech", "sci/tech"),
        ("Refund_not_showing_up", "Refund not showing up"),
        ("FAQ", "FAQ"),
    ],
)
def test_names_of_data_sets_become_words(name, words) -> None:
    assert readable(name) == words
