"""Which method goes where."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aliascope.antialias import Recipe
from aliascope.errors import AliascopeError, ModelError
from aliascope.results.files import Place, parsed, write_file

NONE = "none"
"""A place that is left as it is."""


@dataclass(frozen=True)
class Plan:
    """A method for each place of a network.

    >>> plan = Plan("efficientnet_lite0", {"blocks.1": "folded:3", "blocks.2": "ideal:3"})
    >>> plan.spec
    'efficientnet_lite0@folded:3:at=blocks.1@ideal:3:at=blocks.2'
    """

    model: str
    """The spec of the network as it was."""
    choices: Mapping[str, str]
    """Place (names of operations or modules, commas between those that go together) → METHOD[:SIZE]
    or none."""

    @property
    def spec(self) -> str:
        """The model spec of the network so converted, methods in the order of their first place."""
        return "@".join([self.model, *map(str, self.recipes)])

    @property
    def recipes(self) -> list[Recipe]:
        """A conversion for each method, in the order of their first place."""
        at: dict[str, list[str]] = {}
        for names, method in self.choices.items():
            if method != NONE:
                at.setdefault(str(Recipe.parse(method)), []).append(names)
        return [Recipe.parse(f"{method}:at={','.join(names)}") for method, names in at.items()]

    def dense(self) -> "Plan":
        """The same with dense `ideal` filters for folded ones: what folding stands in for."""
        folded = {x: "ideal" for x, method in self.choices.items() if method.startswith("folded")}
        return Plan(self.model, {**self.choices, **folded})

    def save(self, path: Place) -> None:
        """Write it as JSON that people can edit.

        Raises:
            RunError: it cannot be written.
        """
        record = {"model": self.model, "choices": dict(self.choices)}
        write_file(path, json.dumps(record, indent=2).encode())

    @classmethod
    def open(cls, path: str | Path) -> "Plan":
        """Read what `save` wrote, or people edited.

        Raises:
            AliascopeError: there is no such file, or it holds no plan.
        """
        try:
            record = parsed(Path(path).read_bytes())
            choices = {names: str(method) for names, method in record["choices"].items()}
            plan = cls(record["model"], choices)
            for names, method in plan.choices.items():
                if method != NONE:
                    Recipe.parse(f"{method}:at={names}")
        except OSError as error:
            raise AliascopeError(
                f"{path} cannot be read ({error.strerror}): give a plan.json"
            ) from error
        except ModelError as error:
            raise AliascopeError(f"{path}: {error}") from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise AliascopeError(
                f'{path} holds no plan: write {{"model": SPEC, "choices": {{PLACE: METHOD}}}}'
            ) from error
        return plan
