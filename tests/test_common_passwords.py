"""Which passwords are refused: those that others use, and what is known of their owner; and no honest one."""

import pytest

from okane_common.passwords import too_common


@pytest.mark.parametrize(
    "honest",
    [
        "correct horse battery staple", "my cat asha eats 3 fish", "asha-walks-home", "ashaashaasha", "kumar and asha 1",
        "asha 4917 2288 0136 7", "Bank of okane", "example.com is not mine", "\u0906\u0936\u093e \u0915\u0940 \u092c\u093e\u0924",
        "\U0001f642" * 8, "x7#Kp2!v", "8842-1934-77", "!!!!!!!!~", "z" * 128, "      \u00e9", "asha@another.example",
    ],
)  # fmt: skip
def test_honest_passwords_pass(honest: str) -> None:
    assert not too_common(honest, "asha.k@example.com", "Asha Kumar")


@pytest.mark.parametrize(
    "guessed",
    [
        "asha1234", "Asha2026!", "kumar_99", "KUMAR!!!!", "asha kumar", "AshaKumar1", "asha.k12",
        "asha.k@example.com", "Asha.K@Example.com1", "okane123", "OKANE!!!", "o-k-a-n-e", "\uff2f\uff2b\uff21\uff2e\uff25123",
        "password", "iloveyou", "qwertyuiop", "PASSWORD1",
    ],
)  # fmt: skip
def test_guessed_passwords_do_not_pass(guessed: str) -> None:
    assert too_common(guessed, "asha.k@example.com", "Asha Kumar")


def test_a_short_name_forbids_nothing() -> None:
    assert not too_common("k!7#92$5@", "k@example.com", "K")
    assert not too_common("al-48-72", "x@example.com", "Al")
    assert not too_common("12345-6789-0123", "42@example.com", "42")
