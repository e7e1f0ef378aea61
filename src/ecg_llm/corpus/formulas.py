"""Raised text and formulas, of MathML, Word and TeX, on one line."""

import re
from collections.abc import Sequence

from lxml import etree

SUPERSCRIPTS = str.maketrans("0123456789+-−–", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁻")
SIGNED = re.compile(r"[+−–-]?\d{1,4}|\d{0,2}[+−–-]{1,2}")
BETWEEN = "=<>≤≥≈≃≅∼~≠≡∝→←↔⇒∈×·÷±∓"
"""Operators that stand between two terms; "+" and "-" may also be signs."""


def local(node: etree._Element) -> str:
    """Return an element's name without its namespace."""
    return str(node.tag).rpartition("}")[2].rpartition(":")[2]


def power(base: str, exponent: str) -> str:
    """Return a base with a raised text behind it; words such as "th" and marks as they are."""
    if SIGNED.fullmatch(exponent):
        return _held(base) + exponent.translate(SUPERSCRIPTS)
    if re.fullmatch(r"[+−–-]?\d+[.,]\d+|[a-zα-ω](?:,[a-z])*", exponent):
        return f"{_held(base)}^{exponent}"
    if re.search(r"\w", exponent) and (base or re.search(r"[\d+−–*/=-]", exponent)):
        return f"{_held(base)}^{_wrapped(exponent)}"
    return base + exponent.replace("∘", "°")


def tex(text: str) -> str:
    """Return TeX between dollar signs, without the document that some publishers put around it."""
    _, found, inner = text.partition(r"\begin{document}")
    bare = " ".join((inner.partition(r"\end{document}")[0] if found else text).split())
    bare = re.sub(r"^(?:\$\$?|\\[\[(])\s*|\s*(?:\$\$?|\\[\])])$", "", bare)
    return f"${bare}$" if bare else ""


def formula(node: etree._Element) -> str:
    """Return a formula of MathML or of Word: its TeX if that is given, else on one line."""
    given = node.get("alttext", "").strip()
    if given:
        return tex(given) if re.search(r"[\\^_{]", given) else given
    for note in node.iter("{*}annotation"):
        if "tex" in note.get("encoding", "").lower() and (note.text or "").strip():
            return tex(note.text)
    return " ".join(_linear(node).split())


def _linear(node: etree._Element) -> str:
    """Return a formula's element on one line; its parts are in order in MathML and in Word."""
    name = local(node)
    if name in ("annotation", "annotation-xml", "mphantom"):
        return ""
    if name in ("mi", "mn", "mo", "ms", "mtext", "t"):
        text = re.sub(r"[\u2061-\u2064\s]+", " ", node.text or "")
        return text if name in ("mtext", "t") else text.strip()
    parts = [_linear(child) for child in node if not local(child).endswith("Pr")]  # properties
    match name, parts:
        case "mfrac" | "f", [top, bottom]:
            return f"{_wrapped(top)}/{_wrapped(bottom)}"
        case "msup" | "sSup" | "mover" | "limUpp", [base, above]:
            return power(base.strip(), above.strip())
        case "msub" | "sSub" | "munder" | "limLow", [base, below]:
            return _lowered(base, below)
        case "msubsup" | "sSubSup" | "munderover", [base, below, above]:
            return power(_lowered(base, below), above.strip())
        case "nary", [below, above, inner]:
            sign = next((_value(child) for child in node.iter("{*}chr")), "∫")
            return f"{power(_lowered(sign, below), above.strip())} {inner}"
        case "mroot", [base, index]:
            return f"{power('', index.strip())}√({base.strip()})"
        case "rad", [index, base]:
            return f"{power('', index.strip())}√({base.strip()})"
        case "msqrt", _:
            return f"√({_joined(parts).strip()})"
        case "mfenced" | "d", _:
            opening = next((_value(child) for child in node.iter("{*}begChr")), "(")
            closing = next((_value(child) for child in node.iter("{*}endChr")), ")")
            inner = ", ".join(part.strip() for part in parts)
            return f"{node.get('open', opening)}{inner}{node.get('close', closing)}"
        case "mtable" | "m" | "eqArr", _:
            return "; ".join(part.strip() for part in parts)
        case "mtr" | "mr", _:
            return " ".join(part.strip() for part in parts)
    return _joined(parts)


def _value(node: etree._Element) -> str:
    return next((str(value) for value in node.attrib.values()), "")


def _joined(parts: Sequence[str]) -> str:
    """Return the parts of a formula side by side, letters and digits apart."""
    text = ""
    for part in parts:
        sign = part.strip()
        after_term = re.search(r"[\w)\]}]\s?$", text[-2:])
        if sign and (sign in BETWEEN or (sign in "+-−" and after_term)):
            text += f" {sign} "
        elif (text[-1:].isalnum() or text.endswith(")")) and part[:1].isalnum():
            text += f" {part}"
        else:
            text += part
    return text


def _lowered(base: str, below: str) -> str:
    return f"{base.strip()}_{_wrapped(below)}" if below.strip() else base.strip()


def _wrapped(text: str) -> str:
    bare = text.strip()
    return (
        bare if re.fullmatch(r"[+−–-]?\d[\d.,]*|[^\W²³¹⁰-⁹]+|√?\([^()]*\)", bare) else f"({bare})"
    )


def _held(base: str) -> str:
    """Return the base of a power, in brackets if it is more than a name or a bracket."""
    simple = re.fullmatch(r"[^\s/+−=·×-]*|[^\s/+−=·×()-]*\([^()]*\)", base)
    return base if simple else f"({base})"
