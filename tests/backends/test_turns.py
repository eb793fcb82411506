"""Locks that threads share runtimes by."""

import threading

import pytest
from sharing import at_once, in_thread

from torchlift.backends.turns import Company, DeviceTurns, Turns


@pytest.mark.parametrize("make", [Turns, DeviceTurns])
def test_one_has_its_turn_at_a_time(make):
    turns, inside, most = make(), [], []

    def work(number):
        for _ in range(200):
            with turns:
                inside.append(number)
                most.append(len(inside))
                inside.remove(number)

    at_once(work)
    assert set(most) == {1}


@pytest.mark.parametrize("make", [Turns, DeviceTurns])
def test_who_waits_comes_before_who_has_just_been(make):
    turns, order = make(), []

    def wait():
        with turns:
            order.append("who waits")

    for _ in range(20):
        with turns:
            waiting = in_thread(wait)
            while not turns._next.locked():  # until it is next
                pass
        with turns:
            order.append("who has just been")
        waiting.result(10)
    assert order == ["who waits", "who has just been"] * 20


@pytest.mark.parametrize("make", [Turns, DeviceTurns])
def test_an_error_ends_the_turn(make):
    turns = make()
    for _ in range(2):
        with pytest.raises(ValueError, match="no"), turns:
            raise ValueError("no")

    def come_and_go():
        with turns:
            return "had its turn"

    assert in_thread(come_and_go).result(10) == "had its turn"


def test_company_is_many_at_a_time():
    company, together = Company(), threading.Barrier(3)

    def work(number):
        with company:
            return together.wait(10)

    assert sorted(at_once(work, 3)) == [0, 1, 2]


def test_who_asks_to_be_alone_waits_for_the_others_and_keeps_them_out():
    company, inside, seen = Company(), [], []

    def work(number):
        for turn in range(100):
            with company:
                inside.append(number)
                if turn % 4 == number:
                    inside.remove(number)
                    with company.alone():
                        inside.append(number)
                        seen.append(len(inside))
                        inside.remove(number)
                    inside.append(number)
                inside.remove(number)

    at_once(work)
    assert seen == [1] * 100


def test_nobody_comes_in_while_one_waits_to_be_alone():
    company, leave, order = Company(), threading.Event(), []

    def stay():
        with company:
            leave.wait(10)

    def be_alone():
        with company, company.alone():
            order.append("alone")

    def come():
        with company:
            order.append("came later")

    staying = in_thread(stay)
    while not company._present:
        pass
    waiting = in_thread(be_alone)
    while not company._want_alone:
        pass
    coming = in_thread(come)
    assert order == []
    leave.set()
    for outcome in (staying, waiting, coming):
        outcome.result(10)
    assert order == ["alone", "came later"]


def test_an_error_while_one_is_alone_lets_the_others_in():
    company = Company()
    with company, pytest.raises(ValueError, match="no"), company.alone():
        raise ValueError("no")
    with company, company.alone():
        pass
    assert in_thread(company.__enter__).result(10) is None
