"""The moves of a transaction."""

from signer.states import FINAL, IN_FLIGHT, TRANSITIONS, WAITING, TransactionState, may_become


def test_every_state_is_in_the_table_and_final_ones_lead_nowhere() -> None:
    assert set(TRANSITIONS) == set(TransactionState)
    assert {state for state, targets in TRANSITIONS.items() if not targets} == set(FINAL)
    assert {*WAITING, *IN_FLIGHT, *FINAL} == set(TransactionState)


def test_only_what_a_stranger_made_impossible_goes_back_to_where_a_nonce_is_given() -> None:
    back = {state: TRANSITIONS[state] & set(WAITING) for state in IN_FLIGHT}
    assert back == {"BROADCASTING": {"QUEUED"}, "CONFIRMING": set()}


def test_a_nonce_is_given_in_one_place_here_and_learnt_from_a_custody_in_another() -> None:
    first = [state for state in may_become(TransactionState.BROADCASTING) if state in WAITING]
    assert first == ["RECEIVED", "QUEUED", "PREPARING", "SIGNING"]


def test_what_a_custody_may_have_never_goes_back_to_where_it_would_be_begun_anew() -> None:
    assert TRANSITIONS[TransactionState.SIGNING] & set(WAITING) == set()


def test_completed_is_reached_only_from_the_chain() -> None:
    assert set(may_become(TransactionState.COMPLETED)) == set(IN_FLIGHT)
