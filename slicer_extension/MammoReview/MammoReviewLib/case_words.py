"""What the panel says of a case and its findings, in words."""

from __future__ import annotations

from collections.abc import Iterable

from .findings import Finding, ImageInfo, Verdict
from .i18n import _

COLOURS = {"malignant": "#d55e00", "benign": "#3f8fc4", "no finding": "#6b7a80"}
REJECTED_COLOUR = "#9a9a9a"


def label_word(label: str) -> str:
    """A class."""
    return _("malignant") if label == "malignant" else _("benign")


def class_word(finding: Finding) -> str:
    """The BI-RADS that a reader gave, else its class."""
    if finding.birads is None:
        return label_word(finding.label)
    return _("BI-RADS {category}").format(category=finding.birads.upper())


def status_word(finding: Finding) -> str:
    """What a person did with it so far."""
    words = {
        "proposed": _("to decide"),
        "accepted": _("accepted"),
        "edited": _("edited"),
        "added": _("added"),
        "rejected": _("rejected"),
    }
    return words[finding.status]


def malignancy_word(finding: Finding) -> str:
    """0 to 100; a dash before the model has been asked."""
    return "–" if finding.malignancy is None else f"{100 * finding.malignancy:.0f}"


def size_word(finding: Finding, image: ImageInfo) -> str:
    """The longest diameter at the detector; without a mask or a spacing, the box."""
    if finding.diameter_mm is not None:
        return _("{mm:.0f} mm").format(mm=finding.diameter_mm)
    width, height = finding.bbox[2:]
    if image.spacing_mm is not None:
        width, height = width * image.spacing_mm[0], height * image.spacing_mm[1]
        return _("{w:.0f} × {h:.0f} mm").format(w=width, h=height)
    return _("{w:.0f} × {h:.0f} px").format(w=width, h=height)


def cells(number: int, finding: Finding, image: ImageInfo) -> tuple[str, ...]:
    """A row of the table."""
    return (
        str(number),
        class_word(finding),
        malignancy_word(finding),
        size_word(finding, image),
        status_word(finding),
    )


def verdict_line(verdict: Verdict, image: ImageInfo, shown: Iterable[Finding]) -> str:
    """The image's verdict as one line that holds beside the findings `shown` with it."""
    standing = [finding for finding in shown if finding.stands]
    percent = f"{100 * verdict.malignancy:.0f}"
    if verdict.label == "no finding":
        said = _("no likely mass") if standing else _("no finding")
        if verdict.malignancy > 0:  # the model's; where a person left nothing there is none
            said = _("{said} ({malignancy} of 100)").format(said=said, malignancy=percent)
    elif verdict.label == "malignant" and verdict.malignancy <= 0.5:
        said = _("malignant mass, image {malignancy} of 100").format(malignancy=percent)
    elif is_doubtful(verdict, standing):
        said = _("no likely malignant mass, {malignancy} of 100").format(malignancy=percent)
    else:
        said = _("{label}, {malignancy} of 100").format(
            label=label_word(verdict.label), malignancy=percent
        )
    return _headline(image, said)


def veiled_line(image: ImageInfo) -> str:
    """In the verdict's place while the reader looks without the model."""
    return _headline(image, _("your own look first"))


def _headline(image: ImageInfo, said: str) -> str:
    where = image.title
    return f"{where} · {said}" if where else said[:1].upper() + said[1:]


def is_doubtful(verdict: Verdict, shown: Iterable[Finding]) -> bool:
    """A benign image that is shown with a malignant finding, which then is no likely mass."""
    malignant = any(finding.stands and finding.label == "malignant" for finding in shown)
    return verdict.label == "benign" and malignant


def verdict_colour(verdict: Verdict, shown: Iterable[Finding]) -> str:
    """Of the same line."""
    return COLOURS["no finding" if is_doubtful(verdict, shown) else verdict.label]


def false_positives_line(known: tuple[float, int | None] | None) -> str:
    """How often a proposal from this score on is wrong, and what that rests on."""
    if known is None:
        return _("False positives an image: not measured from this score on")
    fpi, images = known
    if images is None:
        words = _("False positives an image: {fpi:.2g}, on the model's held-out images")
    else:
        words = _("False positives an image: {fpi:.2g}, on {n} image(s) of this server")
    return words.format(fpi=fpi, n=images)


def about_line(
    image: ImageInfo, malignant_means: str, model: dict[str, str] | None, both_views: bool
) -> str:
    """Whose image it is, which model read it and in how many views, and what "malignant" meant."""
    parts = [_("Patient {patient}").format(patient=image.patient)] if image.patient else []
    if model:
        parts.append(_("model {version}").format(version=model["version"]))
    if both_views:
        parts.append(_("both views"))
    line = " · ".join((*parts, _("research use only")))
    line = line[:1].upper() + line[1:] + "."
    if malignant_means:
        means = _("“Malignant” meant in training: {means}.")
        line = f"{line} {means.format(means=malignant_means.rstrip('.'))}"
    return line
