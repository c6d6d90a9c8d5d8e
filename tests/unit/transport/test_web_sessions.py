"""One-time codes and the sessions that they open: once, for their time, and not more of them than a limit."""

import pytest

from concurrent_nb.clock import ManualClock
from concurrent_nb.transport.web_sessions import CODE_S, CODES, COOKIES_READ, SESSION_S, SESSIONS, WebSessions
from concurrent_nb.transport.web_sessions import cookie_name as name_at


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1000.0)


@pytest.fixture
def sessions(clock: ManualClock) -> WebSessions:
    return WebSessions(clock)


def header(value: str | None, port: int = 8000) -> str:
    assert value is not None
    return f"{name_at(port)}={value}"


def test_a_code_opens_a_session_with_its_role(sessions: WebSessions) -> None:
    for role in ("admin", "client"):
        assert sessions.role_of(header(sessions.log_in(sessions.new_code(role)))) == role


def test_a_code_works_once(sessions: WebSessions) -> None:
    code = sessions.new_code("admin")
    assert sessions.log_in(code) is not None
    assert sessions.log_in(code) is None


def test_a_code_works_for_its_time(sessions: WebSessions, clock: ManualClock) -> None:
    early, late = sessions.new_code("admin"), sessions.new_code("admin")
    clock.advance(CODE_S - 0.001)
    assert sessions.log_in(early) is not None
    clock.advance(0.001)
    assert sessions.log_in(late) is None


def test_a_session_ends_after_its_time(sessions: WebSessions, clock: ManualClock) -> None:
    cookie = header(sessions.log_in(sessions.new_code("admin")))
    clock.advance(SESSION_S - 0.001)
    assert sessions.role_of(cookie) == "admin"
    clock.advance(0.001)
    assert sessions.role_of(cookie) is None


@pytest.mark.parametrize("code", ["", "x" * 43, "\ud800", "\x00", "a" * 100_000])
def test_a_guessed_code_opens_nothing(sessions: WebSessions, code: str) -> None:
    sessions.new_code("admin")
    assert sessions.log_in(code) is None


def test_a_code_is_no_cookie_and_a_cookie_no_code(sessions: WebSessions) -> None:
    code = sessions.new_code("admin")
    assert sessions.role_of(header(code)) is None
    cookie = sessions.log_in(code)
    assert cookie is not None
    assert sessions.log_in(cookie) is None


def test_a_cookie_of_another_master_gives_no_access(sessions: WebSessions) -> None:
    other = WebSessions()
    assert sessions.role_of(header(other.log_in(other.new_code("admin")))) is None


def test_a_cookie_is_found_among_others(sessions: WebSessions) -> None:
    cookie = sessions.log_in(sessions.new_code("client"))
    others = f"_xsrf=2|a; {header('x' * 43, 1)}; {header(cookie, 2)};a=b"
    assert sessions.role_of(others) == "client"


def test_a_header_of_many_cookies_costs_a_bounded_time(sessions: WebSessions) -> None:
    cookie = sessions.log_in(sessions.new_code("client"))
    foreign = [header("x" * 43)] * (COOKIES_READ - 1)
    assert sessions.role_of(";".join([*foreign, header(cookie)])) == "client"
    assert sessions.role_of(";".join([*foreign, header("y" * 43), header(cookie)])) is None


@pytest.mark.parametrize("template", ["{}", "x{}", "{}x", "a=b,{}", '"{}"', "concurrent_nb-=1; {}x", "{} x"])
def test_only_a_whole_cookie_counts(sessions: WebSessions, template: str) -> None:
    cookie = header(sessions.log_in(sessions.new_code("client")))
    assert sessions.role_of(template.format(cookie)) == ("client" if template == "{}" else None)


def test_a_session_that_has_logged_out_is_over(sessions: WebSessions) -> None:
    cookies = [header(sessions.log_in(sessions.new_code("admin"))) for _ in range(2)]
    assert sessions.log_out(cookies[0]) and not sessions.log_out(cookies[0])
    assert [sessions.role_of(cookie) for cookie in cookies] == [None, "admin"]


def test_the_oldest_session_and_code_make_room(sessions: WebSessions) -> None:
    cookies = [header(sessions.log_in(sessions.new_code("admin"))) for _ in range(SESSIONS + 1)]
    assert [sessions.role_of(cookie) for cookie in cookies] == [None, *["admin"] * SESSIONS]
    codes = [sessions.new_code("admin") for _ in range(CODES + 1)]
    assert [sessions.log_in(code) is not None for code in (codes[0], codes[1], codes[-1])] == [False, True, True]


def test_what_has_expired_makes_room_first(sessions: WebSessions, clock: ManualClock) -> None:
    for _ in range(SESSIONS - 1):
        sessions.log_in(sessions.new_code("admin"))
    clock.advance(SESSION_S / 2)
    kept = header(sessions.log_in(sessions.new_code("admin")))
    clock.advance(SESSION_S / 2)
    for _ in range(SESSIONS - 1):
        sessions.log_in(sessions.new_code("admin"))
    assert sessions.role_of(kept) == "admin"


def test_no_secret_is_kept(sessions: WebSessions) -> None:
    code = sessions.new_code("admin")
    assert code not in repr(vars(sessions))
    cookie = sessions.log_in(code)
    assert cookie is not None and len(cookie) == 43
    assert cookie not in repr(vars(sessions))
