"""The explorer: a page of this machine alone, on which every control is a key, and every state is in the address."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import chromium
from sim.ask.run.simulate import simulate
from sim.errors import ConfigError
from sim.explore.answer import answer
from sim.explore.controls import controls_of
from sim.explore.design import Design, open_design, yaml_of
from sim.inputs.load import load_experiment
from support import Cli

BASE = "quickstart"


# --- designs ----------------------------------------------------------------------------------


def test_an_answer_is_what_run_says() -> None:
    result = simulate(load_experiment(BASE).experiment)
    told = answer(Design(BASE))
    figures = {figure["key"]: figure["value"] for figure in told["figures"]}
    assert figures["step.time_s"] == result.step.time_s
    assert figures["step.mfu"] == result.step.mfu
    assert sum(part["share"] for part in told["breakdown"]) == pytest.approx(1)


@pytest.mark.parametrize("source", [BASE, "gpt3-175b-a100", "llama3-405b-54-days", "resnet50-dgx-a100"])
def test_every_position_of_a_slider_is_a_value_of_the_input(source: str) -> None:
    """Each value that a slider offers is taken by the input; where the design is, the control stands."""
    experiment = open_design(Design(source)).loaded.experiment
    controls = controls_of(experiment)
    assert len({control.key for control in controls}) == len(controls)
    for control in controls:
        assert len(control.values) == len(control.words)
        assert 0 <= control.at < len(control.values)
        for value in {0: control.values[0], 1: control.values[-1]}.values() if control.looks == "slider" else ():
            changed = load_experiment(source, [(control.key, value)], checks=()).experiment
            assert value is None or {each.key: each for each in controls_of(changed)}[control.key].values


def test_sliders_go_up_and_the_step_follows() -> None:
    controls = {control.key: control for control in controls_of(open_design(Design(BASE)).loaded.experiment)}
    links = controls["cluster.node.local.bandwidth"]
    slow, fast = (
        answer(Design(BASE, changes={"parallelism.tensor": 8, links.key: value}))["figures"][0]["value"]
        for value in (links.values[0], links.values[-1])
    )
    assert slow > fast


def test_node_counts_are_those_that_the_plan_fills() -> None:
    controls = controls_of(load_experiment("gpt3-175b-a100").experiment)
    (nodes,) = (control for control in controls if control.key == "nodes")
    assert 128 in nodes.values
    for count in nodes.values:
        made = open_design(Design("gpt3-175b-a100", changes={"nodes": count})).loaded.experiment
        assert made.setup.ranks == count * 8


def test_the_file_is_the_design(cli: Cli, tmp_path: Path) -> None:
    changes = {
        "nodes": 64, "cluster.fabric.leaf_oversubscription": 4, "cluster.node.nics.bandwidth": "400 Gb/s",
        "training.global_batch": 768, "power.limit": "300 W",
    }  # fmt: skip
    design = Design("gpt3-175b-a100", changes=changes)
    file = tmp_path / "made.yaml"
    file.write_text(yaml_of(design), encoding="utf-8")
    told = json.loads(cli("run", file, "--json").out)
    assert told["step"]["time_s"] == pytest.approx(answer(design)["figures"][0]["value"], rel=1e-12)


def test_an_opened_file_is_a_design_and_its_mistakes_are_told_as_by_check() -> None:
    text = "extends: quickstart\ntraining: {microbatch: 2}\n"
    assert (
        answer(Design(text=text))["figures"][0]["value"]
        == answer(Design(BASE, changes={"training.microbatch": 2}))["figures"][0]["value"]
    )
    with pytest.raises(ConfigError, match=r"opened\.yaml:2:12: training\.microbatches: .*did you mean microbatch"):
        answer(Design(text="extends: quickstart\ntraining: {microbatches: 2}\n"))
    with pytest.raises(ConfigError, match="must be a mapping"):
        answer(Design(text="- 1\n"))


def test_failures_drawn_on_the_page_get_a_place_to_fall_back_on_and_say_so() -> None:
    controls = {control.key: control for control in controls_of(load_experiment("gpt3-175b-a100").experiment)}
    drawn = controls["failures"]
    told = answer(Design("gpt3-175b-a100", changes={"failures": drawn.values[4]}))
    assert any("are assumed" in note for note in told["notes"])
    assert told["finished"]
    assert "checkpoint:" in told["yaml"]
    again = {control["key"]: control for control in told["controls"]}["failures"]
    assert again["words"][again["at"]] == drawn.words[4]


@pytest.mark.parametrize("asked", [None, [], {}, {"base": 3}, {"set": {}}, {"base": "x", "set": []}])
def test_what_is_no_design_is_refused(asked: Any) -> None:
    with pytest.raises(ConfigError):
        Design.of(asked)


# --- the server -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A running explorer, as the command starts it."""
    line = [sys.executable, "-m", "sim.cli", "explore", BASE, "--no-browser"]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    address = process.stderr.readline()
    assert address.startswith("http://127.0.0.1:"), address
    yield int(address.split(":")[2].split("/")[0])
    process.send_signal(signal.SIGINT)
    assert process.wait(20) in (0, 130)  # 0 where a shell in the background has SIGINT ignored
    process.stderr.close()


def request(
    port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    text = body if isinstance(body, str) else json.dumps(body)
    connection.request(
        method, path, None if body is None else text, {"Content-Type": "application/json", **(headers or {})}
    )
    answered = connection.getresponse()
    found = answered.status, answered.read().decode()
    connection.close()
    return found


def test_it_answers(port: int) -> None:
    status, text = request(port, "POST", "/answer", {"base": BASE, "set": {}})
    assert status == 200
    assert json.loads(text)["done"]["name"] == BASE


def test_a_wrong_design_is_told_as_check_tells_it(port: int) -> None:
    _, text = request(port, "POST", "/answer", {"base": BASE, "set": {"parallelism.tensor": 7}})
    problems = json.loads(text)["problems"]
    assert any("parallelism.tensor" in problem for problem in problems)
    assert not any("--set" in problem for problem in problems)
    _, text = request(port, "POST", "/answer", {"base": "nothing-like-it", "set": {}})
    assert "no experiment is called" in json.loads(text)["problems"][0]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ("not json", {}),
        ("[1]", {}),
        ({"base": BASE}, {"Content-Type": "text/plain"}),
        ({"base": BASE, "text": "x" * 1_000_001}, {}),
        ("[" * 100_000, {}),
    ],
)
def test_strange_questions_are_refused(port: int, body: Any, headers: dict[str, str]) -> None:
    status, text = request(port, "POST", "/answer", body, headers)
    assert status == 400
    assert json.loads(text)["problems"]


def test_pages_of_others_get_nothing(port: int) -> None:
    """A name that was made to lead here is refused; the page itself may load nothing from elsewhere."""
    assert request(port, "GET", "/", headers={"Host": "evil.example"})[0] == 400
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/")
    policy = connection.getresponse().getheader("Content-Security-Policy") or ""
    assert "default-src 'none'" in policy
    connection.close()


def test_plans_come_with_progress_and_can_be_used(port: int) -> None:
    _, text = request(port, "POST", "/plan", {"base": BASE, "set": {}})
    replies = [json.loads(line) for line in text.splitlines()]
    assert any("progress" in reply for reply in replies[:-1])
    plans = replies[-1]["done"]["plans"]
    _, text = request(port, "POST", "/answer", {"base": BASE, "set": plans[0]["set"]})
    first = json.loads(text)["done"]["figures"][0]
    assert first["told"] == plans[0]["step"]


def test_a_search_that_is_cancelled_tells_so_and_the_next_works(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = json.dumps({"base": "gpt3-175b-a100", "set": {}})
    connection.request("POST", "/plan", body, {"Content-Type": "application/json"})
    stream = connection.getresponse()
    first = stream.readline()
    assert "progress" in json.loads(first)
    request(port, "POST", "/cancel", {})
    last = json.loads(stream.read().decode().splitlines()[-1])
    stream.close()
    connection.close()
    assert last.get("cancelled") or last["done"]["complete"] is False
    assert json.loads(request(port, "POST", "/plan", {"base": BASE, "set": {}})[1].splitlines()[-1])["done"]["plans"]


# --- in a browser -----------------------------------------------------------------------------


class Explorer:
    """The page, opened."""

    def __init__(self, browser: Any, address: str, width: int, scheme: str) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda asked: self.requests.append(asked.url))
        self.page.goto(address)
        self.settle()

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def settle(self) -> None:
        self.page.wait_for_selector("body[data-ready=yes][data-busy=no]")

    def figure(self, key: str) -> str:
        return str(self.page.inner_text(f"#figures [title='{key}'] b"))

    def move(self, control: str, at: int) -> None:
        place = "input => { input.value = %d; input.dispatchEvent(new Event('input')); }" % at  # noqa: UP031
        self.page.eval_on_selector(f"#c-{control}", place)
        self.settle()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_works(port: int, browser: Any, width: int, scheme: str) -> None:
    """Slider, keyboard, pin, address, plan search, a wrong value, reset: as a visitor would."""
    address = f"http://127.0.0.1:{port}/"
    visit = Explorer(browser, address, width, scheme)
    page = visit.page
    before = visit.figure("step.time_s")
    page.click("#pin")
    visit.move("cluster-node-local-bandwidth", 0)
    assert visit.figure("step.time_s") != before
    page.focus("#c-cluster-node-local-bandwidth")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    visit.settle()
    moved = visit.figure("step.time_s")
    assert page.inner_text("#pins").count("%") > 1
    assert "bandwidth" in page.inner_text("#yaml")

    shared = Explorer(browser, page.url, width, scheme)
    assert shared.figure("step.time_s") == moved
    shared.page.wait_for_selector("#pins tbody tr:nth-child(2) td.n:not(:empty)")
    assert shared.page.inner_text("#pins tbody tr:nth-child(2) td:nth-child(2)").startswith(before)

    page.fill("#c-parallelism-tensor", "7")
    page.press("#c-parallelism-tensor", "Enter")
    page.wait_for_selector("#problems:not([hidden])")
    assert "parallelism.tensor" in page.inner_text("#problems")
    page.click("#reset")
    page.wait_for_selector("#problems", state="hidden")
    visit.settle()
    assert visit.figure("step.time_s") == before

    page.click("#search")
    page.wait_for_selector("#plans:not([hidden])")
    best = page.inner_text("#plans tbody tr td")
    page.click("#plans tbody tr button")
    page.wait_for_function("told => document.querySelector('#figures b').textContent === told", arg=best)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert visit.complaints == shared.complaints == []
    assert all(url.startswith((address, "data:")) for url in visit.requests)


def test_a_file_can_be_opened(port: int, browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: quickstart\nname: mine\ntraining: {microbatch: 2}\n", encoding="utf-8")
    visit = Explorer(browser, f"http://127.0.0.1:{port}/", 1280, "light")
    visit.page.set_input_files("#open", file)
    visit.page.wait_for_function("document.getElementById('name').textContent === 'mine'")
    again = Explorer(browser, visit.page.url, 1280, "light")
    assert again.page.inner_text("#name") == "mine"
    assert visit.complaints == again.complaints == []


def test_a_slow_design_can_be_given_up(port: int, browser: Any) -> None:
    """Tensor groups across nodes: nothing folds, and the step takes long; Stop leaves a page that goes on working."""
    visit = Explorer(browser, f"http://127.0.0.1:{port}/", 1280, "light")
    slow = {"base": "gpt3-175b-a100", "set": {"parallelism.placement": "random", "simulation.fold": "off"}}
    visit.page.evaluate("asked => { design = asked; refresh(); }", slow)
    visit.page.wait_for_selector("#waiting:not([hidden])")
    visit.page.click("#give-up")
    visit.settle()
    began = time.monotonic()
    status, text = request(port, "POST", "/answer", {"base": BASE, "set": {}})
    assert status == 200
    assert "done" in json.loads(text), f"after {time.monotonic() - began} s"
