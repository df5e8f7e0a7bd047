"""The pages of the documentation: their blocks are run, in the order of a page, in one folder per page.

- a `yaml` or `txt` block that begins with a comment such as `# mine.yaml` is written to that file; one in YAML is
  checked, unless it lies in a folder (a table of measurements) or its first line speaks of mistakes,
- a line of a `bash` block that begins with `clustersim` is called; `# exit code 3` at its end says what to expect,
- a `text` block shows what the command before it prints, to the letter; a line `...` stands for any number of lines,
  such as those that tell how long something took,
- a `python` block runs, as a doctest if it has prompts.

What takes long or needs other machines stands in `console` blocks, which do not run.

The table of published runs in the README says what `experiments/validation/residuals.csv` holds, which
`clustersim validate experiments --residuals FILE` writes, but for the runs of the blind test. That of
people's own reports in docs/models.md is written by `reports.py`.

`python tests/pages.py` (`make docs`) puts what is printed today into the `text` blocks, and these tables into their
pages.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shlex
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from statistics import mean, median

from reports import inside, rows

from sim.ask.validate.trust import RESIDUALS, read_residuals, shipped_bands
from sim.cli.app import call
from support import ROOT, Cli, Outcome

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"[+-]?\d[\d,]*(?:\.\d+)?(?: %)?")
BARS = re.compile("[▏▎▍▌▋▊▉█]+")
OMITTED = "..."  # a line that stands for any number of lines
WIDTH = "80"
TABLE = "| published runs | n | mean error | median | worst | bias |"
COVERED = "| source | inside |"
REPORTS = "| report | source | of what | measured | predicted | band | verdict |"
JUDGED = "transformer"  # the family whose rule is told
SOURCES = {
    "blackwell": "MLPerf, DGX Cloud, Megatron Bridge (B200, GB200, B300, GB300)",
    "instinct": "MLPerf, Primus (MI300X to MI355X)",
    "maxtext_tpu": "MaxText (TPU v4, v5e, v5p)",
    "megatron_bridge_recompute": "Megatron Bridge, parts computed again (H100)",
    "mlperf_bert_machines": "MLPerf BERT, other machines (Gaudi 2, Xeon, TPU v4)",
    "neuron_trn1": "Neuron (Trainium 1)",
    "other_machines": "MLPerf, other machines (L40S, TPU v4, Gaudi 2, Xeon)",
    "tpu_recipes": "TPU recipes (v5p, v6e)",
    "bloom_tuning": "BLOOM tuning (A100)",
    "dle_bert": "BERT, NVIDIA DeepLearningExamples (V100, A100)",
    "dgxc_h100": "NeMo, DGX Cloud (H100)",
    "dlrm": "DLRM, MLPerf (A100)",
    "dlrm_dcnv2": "DLRM-DCNv2, MLPerf (A100, H100, B200)",
    "efficientnet": "EfficientNet, NVIDIA DeepLearningExamples (V100, A100)",
    "gnmt": "GNMT, NVIDIA DeepLearningExamples (V100, A100)",
    "dgxc_moe": "NeMo, DGX Cloud: Grok-1, DeepSeek-V3 (H100, GB200)",
    "ibm_fms_fsdp": "IBM FMS, FSDP (A100, H100)",
    "korthikanti_2022": "Megatron, Korthikanti 2022, table 5 (A100)",
    "megatron_core_h100": "Megatron Core (H100)",
    "megatron_sc21": "Megatron, Narayanan 2021, table 1 (A100)",
    "mlperf_bert": "MLPerf BERT (H100, H200, B200)",
    "mlperf_flux1": "MLPerf FLUX.1 (B200, GB200)",
    "megatron_bridge_moe": "Megatron Bridge, experts (H100, B200, GB200)",
    "megatron_bridge_pairs": "Megatron Bridge, pairs of dispatchers and overlap (H100)",
    "mlperf_gpt3": "MLPerf GPT-3 (H100, B200)",
    "mlperf_llama2_70b_lora": "MLPerf Llama 2 70B LoRA (H100, H200)",
    "mlperf_llama31_405b": "MLPerf Llama 3.1 405B (H100, H200)",
    "mpt_llm_foundry": "LLM Foundry (A100, H100)",
    "resnet50": "ResNet-50, NVIDIA DeepLearningExamples (V100, A100)",
    "resnext101": "ResNeXt-101, NVIDIA DeepLearningExamples (V100, A100)",
    "retinanet": "RetinaNet, MLPerf (A100, H200, B200)",
    "rnnt": "RNN-T, MLPerf (H100)",
    "nemo_24": "NeMo 24.09 (H100)",
    "small_models": "people's own runs of GPT-2 and Qwen3 (A100, H100, RTX 4090)",
    "stable_diffusion": "Stable Diffusion 2, MLPerf and MosaicML (A100, H100, H200, B200)",
    "torchtitan": "TorchTitan (H100, H200)",
    "vtrain_multi": "vTrain, several nodes (A100)",
    "vtrain_single": "vTrain, one node (A100)",
}  # tables of published runs, for people


@dataclass
class Page:
    """What has happened on a page so far."""

    cli: Cli
    printed: str = ""  # by the last command
    names: dict[str, object] = field(default_factory=lambda: {"__name__": "__main__"})

    def yaml(self, text: str) -> None:
        file = self.txt(text)
        if file and "mistake" not in text.partition("\n")[0] and not file.parent.name:
            assert self.cli("check", file).err == ""

    def txt(self, text: str) -> Path | None:
        name = re.match(r"# (\S+\.\w+)(?: |$)", text, re.MULTILINE)
        if name is None:
            return None
        file = Path(name[1])
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    def bash(self, text: str) -> None:
        for line in text.replace("\\\n", " ").splitlines():
            if line.startswith("clustersim"):
                self.call(line)

    def call(self, line: str) -> None:
        expected = re.search(r"# exit code (\d+)", line)
        words, target = _redirected(shlex.split(line, comments=True)[1:])
        outcome = self.cli(*words)
        assert outcome.code == (int(expected[1]) if expected else 0), f"{line}: {outcome.err}"
        self.printed = outcome.out or outcome.err
        if target:
            Path(target).write_text(outcome.out, encoding="utf-8")

    def text(self, text: str) -> None:
        problems = list(differences(text, self.printed))
        assert not problems, "\n".join([*problems, "It prints:", self.printed])

    def python(self, text: str) -> None:
        if ">>>" in text:
            test = doctest.DocTestParser().get_doctest(text, self.names, "page", None, 0)
            told = io.StringIO()
            failed, _ = doctest.DocTestRunner().run(test, out=told.write, clear_globs=False)
            assert not failed, told.getvalue()
            self.names = test.globs
        else:
            with contextlib.redirect_stdout(io.StringIO()) as told:
                exec(compile(text, "page", "exec"), self.names)
            self.printed = told.getvalue()


def _redirected(words: list[str]) -> tuple[list[str], str]:
    """Arguments of a command, and the file that `>` sends its output to."""
    if ">" not in words:
        return words, ""
    arrow = words.index(">")
    return words[:arrow], words[arrow + 1]


def differences(shown: str, printed: str) -> Iterator[str]:
    """The lines of `shown` that `printed` does not have in this order."""
    left = printed.splitlines()
    anywhere = True
    for line in shown.splitlines():
        if line.strip() == OMITTED:
            anywhere = True
            continue
        found = next((index for index, other in enumerate(left) if line.rstrip() == other.rstrip()), None)
        if found is None or (found > 0 and not anywhere):
            yield f"not printed (any more): {line}" if found is None else f"lines are missing before: {line}"
        else:
            left = left[found + 1 :]
        anywhere = False


def run_page(page: Path, cli: Cli, text: Callable[[Page, str], str | None] = Page.text) -> str:
    """Run all blocks of a page in the working folder; `text` may give other words for a `text` block.

    Returns the page with them. Raises AssertionError where the page is wrong.
    """
    state = Page(cli)

    def run(block: re.Match[str]) -> str:
        language, inside = block.groups()
        if language == "text":
            return f"```text\n{text(state, inside) or inside}```"
        run_block = getattr(state, language, None)
        if run_block:
            run_block(inside)
        return block[0]

    return BLOCK.sub(run, page.read_text(encoding="utf-8"))


def refreshed(shown: str, printed: str) -> str:
    """`shown` with its lines as `printed` has them now; stretches between `...` begin and end with lines of one kind.

    Raises AssertionError if nothing of that kind is printed any more.
    """
    left, lines = printed.splitlines(), list[str]()
    for stretch in re.split(r"^(\.\.\.)$\n", shown, flags=re.MULTILINE):
        told = stretch.split()
        if not told or told == [OMITTED]:
            lines += stretch.splitlines()
            continue
        old = stretch.strip("\n").splitlines()
        first = _place(old[0], left)
        last = first + _place(old[-1], left[first:])
        lines += [line.rstrip() for line in left[first : last + 1]]
        lines += [""] * (len(stretch) - len(stretch.rstrip("\n")) - 1)
        left = left[last + 1 :]
    return "".join(f"{line}\n" for line in lines)


def _place(line: str, lines: list[str]) -> int:
    """Where a line like `line` stands: the same but for its numbers, else the most similar one."""
    kinds = [_kind(other) for other in lines]
    close = [_kind(line)] if _kind(line) in kinds else get_close_matches(_kind(line), kinds, 1)
    assert close, f"nothing like this is printed any more; change the page by hand: {line}"
    return kinds.index(close[0])


def _kind(line: str) -> str:
    return " ".join(NUMBER.sub("#", BARS.sub("", line)).split())


def main() -> None:
    """Put what is printed today into the pages."""
    os.environ["COLUMNS"] = WIDTH
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        if "```text" not in before and COVERED not in before:
            continue
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            after = renewed_table(run_page(page, _call, lambda state, shown: refreshed(shown, state.printed)))
        if after != before:
            page.write_text(after, encoding="utf-8")
            sys.stderr.write(f"{page.relative_to(ROOT)}: changed\n")


def renewed_table(page: str) -> str:
    """The page with what follows from the errors of published runs as they are today.

    The table of these runs, those that are predicted best first; the rule of trust bands, and whom they hold; people's
    own reports.
    """
    page = _put(page, r"(?<=  Today: ).* differences\.", _rule_of_bands())
    for title, lines in ((TABLE, _table), (COVERED, _coverage), (REPORTS, rows)):
        if title in page:
            page = _put(page, rf"(?<={re.escape(title)}\n)(\|.*\n)+", "".join(f"{line}\n" for line in lines()))
    return _put(page, r"(?<=\nInside its band today: ).*", inside()) if REPORTS in page else page


def _put(page: str, pattern: str, text: str) -> str:
    return re.sub(pattern, lambda _: text, page)


def _rule_of_bands() -> str:
    rule = shipped_bands().families[JUDGED].rule
    return f"{rule.at_hand:.2f} + {rule.per_difference:.3f} per difference, up to {rule.farthest:.1f} differences."


def _coverage() -> Iterator[str]:
    covered = shipped_bands().coverage()
    yield "|---|---|"
    for source, share in sorted(covered.items()):
        yield f"| {source} | {share:.0%} |"
    yield f"| mean of the sources | {mean(covered.values()):.0%} |"


def _table() -> Iterator[str]:
    errors = defaultdict[str, list[float]](list)
    blind = {file.stem for file in (ROOT / "experiments/blind").glob("*.yaml")}
    for residual in read_residuals(ROOT / RESIDUALS):
        if residual.source not in blind:
            errors[residual.source].append(residual.error)
    single = errors.pop("experiments")
    yield "|---|---|---|---|---|---|"
    for source, found in sorted(errors.items(), key=lambda item: mean(map(abs, item[1]))):
        yield _row(SOURCES.get(source, source), found)
    yield _row("single experiments", single)
    everything = [*single, *(error for found in errors.values() for error in found)]
    yield _row(f"all {len(everything)}", everything)


def _row(title: str, errors: list[float]) -> str:
    sizes = [abs(error) for error in errors]
    shares = [f"{share:.1%}".replace("%", " %") for share in (mean(sizes), median(sizes), max(sizes))]
    return f"| {' | '.join([title, str(len(errors)), *shares, f'{mean(errors):+.1%}'.replace('%', ' %')])} |"


def _call(*arguments: object) -> Outcome:
    """The command in this process."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = call([str(argument) for argument in arguments])
    return Outcome(code, out.getvalue(), err.getvalue())


if __name__ == "__main__":
    main()
