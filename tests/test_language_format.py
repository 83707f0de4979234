"""The formatter: one layout, nothing lost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdlc.language.diagnostics import SdlError
from sdlc.language.format import format_source
from sdlc.language.format_lines import WIDTH
from sdlc.language.parse import parse_module
from sources import modules, relaid
from trees import without_spans

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(path for room in ("stdlib", "models") for path in (ROOT / room).rglob("*.sdl"))


def laid_out(text: str) -> str:
    """The layout, after the checks that every layout must pass."""
    result = format_source(text, "f.sdl")
    assert without_spans(parse_module(result, "f.sdl")) == without_spans(
        parse_module(text, "f.sdl")
    )
    assert format_source(result, "f.sdl") == result
    assert "\n\n\n" not in result
    assert not re.search(r"[ \t]\n", result)
    return result


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.name))
def test_the_library_and_the_models(path: Path) -> None:
    laid_out(path.read_text(encoding="utf-8"))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_layout_of_any_module(data: st.DataObject) -> None:
    text = data.draw(modules())
    laid_out(text)
    other = data.draw(relaid(text))
    assert without_spans(parse_module(other, "f.sdl")) == without_spans(parse_module(text, "f.sdl"))
    assert re.findall(r"# note \d+", laid_out(other)) == re.findall(r"# note \d+", other)


def check(text: str, expected: str) -> None:
    assert laid_out(text.strip("\n")) == expected.lstrip("\n")


def test_spaces() -> None:
    check(
        "fn f( x,y )=x+y*-2^  3",
        "fn f(x, y) = x + y * -2 ^ 3\n",
    )
    check(
        "op f(x:T[*b,n];k:int=1)->T[*b]{out[*b]=sum over i<n of x[ * b,i ]}",
        "op f(x: T[*b, n]; k: int = 1) -> T[*b] { out[*b] = sum over i < n of x[*b, i] }\n",
    )
    check(
        "fn f(x) = g( x [ .. , 0 .. 4 ,-1.. ];a=[1,2,],b = [ ] ) . m",
        "fn f(x) = g(x[.., 0..4, -1..]; a = [1, 2], b = []).m\n",
    )
    check(
        "fn f(x) = down.{i+1}.a{ j } :conv(x)",
        "fn f(x) = down.{i + 1}.a{j}: conv(x)\n",
    )


def test_blocks() -> None:
    check(
        """
block f(x: T[n]) -> T[n] {
      if n>3 { x = a(x) ; x = b(x) } else {
 x = c(x) }

   for i, y in [1,2] { }


   return x }
""",
        """
block f(x: T[n]) -> T[n] {
  if n > 3 {
    x = a(x)
    x = b(x)
  } else {
    x = c(x)
  }

  for i, y in [1, 2] {}

  return x
}
""",
    )


def test_a_block_on_one_line_stays_there() -> None:
    check(
        "monoid m {\n f: f32=0;g: f32 = 1\n combine(a,b) { f=a.f+b.f;g = a.g }\n}",
        "monoid m {\n  f: f32 = 0\n  g: f32 = 1\n  combine(a, b) { f = a.f + b.f; g = a.g }\n}\n",
    )


def test_comments() -> None:
    check(
        """
# first


# second
op f(x: T[n]) -> T[n] {   # opens
    # alone
  a = g(x, # the tensor
       # and its neighbour
    y)   # done
  out[i] = a[i] +    # plus
    1
  if n > 1 { a = 3 } # one
  # before else
  else { a = 4 }

  # last
}   # closes
# end
""",
        """
# first

# second
op f(x: T[n]) -> T[n] {  # opens
  # alone
  a = g(x,  # the tensor
    # and its neighbour
    y)  # done
  out[i] = a[i] +  # plus
    1
  if n > 1 {
    a = 3
  }  # one
  # before else
  else {
    a = 4
  }

  # last
}  # closes
# end
""",
    )


def test_long_signatures() -> None:
    check(
        """
op conv(x: T[b, c, h, w], k: T[o, c, kh, kw]; stride: int = 1, pad: int = kh / 2,
dilation: int = 1, groups: int = 1) -> T[b, o, h, w] "Convolution."
where stride > 0 "the stride is positive", pad < kh "less padding than kernel" {
out[b, o, y, x'] = 0 }
""",
        """
op conv(x: T[b, c, h, w], k: T[o, c, kh, kw];
    stride: int = 1, pad: int = kh / 2, dilation: int = 1, groups: int = 1)
  -> T[b, o, h, w]
  "Convolution."
  where stride > 0 "the stride is positive", pad < kh "less padding than kernel"
{
  out[b, o, y, x'] = 0
}
""",
    )


def test_long_statements_break_at_the_outermost_operator() -> None:
    first, second = ("a_long_function_name(with_arguments, and_more_of_them)" for _ in range(2))
    check(
        f"fn f(x) = (if x > 0 then {first} else 1) + {second}",
        f"fn f(x) =\n  (if x > 0 then {first} else 1) +\n  {second}\n",
    )


def test_lines_fit() -> None:
    text = "fn f(x) = " + " + ".join(f"g(x, {i}; k = [{i}, {i}])" for i in range(40))
    assert max(len(line) for line in laid_out(text).splitlines()) <= WIDTH


def test_an_empty_file() -> None:
    assert format_source("", "f.sdl") == ""
    assert format_source("\n\n# only\n\n\n", "f.sdl") == "# only\n"


def test_what_does_not_parse() -> None:
    with pytest.raises(SdlError, match="E005"):
        format_source("fn f(x) = (x", "f.sdl")
