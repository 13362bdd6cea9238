"""A model of images as the engine runs it: a `LanguageModel` whose prompts have images.

    seeing = load_seeing("runs/llava")
    engine = Engine(seeing, seeing.tokenizer)
    ids, images = seeing.chat([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ""}]}], [image])
    engine.generate(ids, images=images)

A `vlm` reads an image in the places of its image token, a `flamingo` (of one image) with every token. The images of a
row are in its state, so that rows with and without images run in one batch. A run of a recipe was trained on one image
and one question; a model with a chat template reads a conversation. `describe` writes after a prompt without an engine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llmanac.core.errors import CheckpointError, RequestError, SpecError, too_long
from llmanac.core.types import ALL, LAST, Batch, Capabilities, ModelOutput, OutputRequest
from llmanac.data.pictures.preprocess import Preprocess, load_preprocess
from llmanac.models.folder import CONFIG, RECORD, read_table
from llmanac.models.images.families import FAMILIES
from llmanac.models.images.load import OWN, load_multimodal
from llmanac.models.images.vlm import VLM
from llmanac.tokenizers.load import load_tokenizer

NEVER = -1e30  # the logit of the image token, which no text has
MOST_IMAGES = 16  # of one prompt
NAMED = 8  # unknown words of a message


def known_ids(tokenizer: Any, text: str, where: str, special: Literal["never", "all"] = "never") -> list[int]:
    """The ids of a text. Raises RequestError that names its words that the model does not know; `where` is a field."""
    ids: list[int] = tokenizer.encode(text, special=special)
    unknown = tokenizer.unknown_id
    if unknown is None or unknown not in ids:
        return ids
    placed = zip(*tokenizer.encode_with_offsets(text, special=special), strict=True)
    words = list(dict.fromkeys(text[a:b].strip()[:40] for i, (a, b) in placed if i == unknown))
    named = ", ".join(map(repr, words[:NAMED])) + (f" and {len(words) - NAMED} more" if len(words) > NAMED else "")
    raise RequestError(f"{where}: {text[:100]!r} has words that the model does not know: {named}")


@dataclass(frozen=True)
class Seen:
    """What the images of a prompt are to the model.

    Attributes:
        vectors: (N, D) image tokens, or (L, D) latents; places: (N,) where in the prompt they are, None for latents.
    """

    vectors: Tensor
    places: Tensor | None = None


class Seeing(nn.Module):
    """See the module.

    Attributes:
        model, tokenizer, preprocess: what it is made of; template: whether the tokenizer writes conversations.

    Raises:
        SpecError: a model that writes no text, or one that has to read its prompt as one piece.
    """

    capabilities = Capabilities(sees=True)

    def __init__(self, model: Any, tokenizer: Any, preprocess: Preprocess, *, template: bool = False) -> None:
        super().__init__()
        if model.spec.name not in ("vlm", "flamingo"):
            raise SpecError(f"model: a {model.spec.name} writes no text; a vlm (llava) and a flamingo do")
        if isinstance(model, VLM) and model.spec.mask != "causal":
            raise SpecError("model.mask: a prefix that sees both ways is read at once, which a server cannot promise")
        self.model, self.tokenizer, self.preprocess, self.template = model, tokenizer, preprocess, template
        self.vocab_size, self.max_length = model.vocab_size, model.max_length
        self.image_id = model.spec.image_id if isinstance(model, VLM) else None
        if self.image_id is not None and self.image_id >= self.vocab_size:
            raise SpecError(f"model.image_id: {self.image_id} is not among the {self.vocab_size} tokens")

    def start(self, batch: int) -> Any:
        """An empty state for `batch` rows."""
        return self.model.start(batch)

    def forward(self, batch: Batch | Tensor, state: Any = None, want: OutputRequest = ALL) -> ModelOutput:
        """What `want` asks for, as of any language model; the images of a row are what its state has."""
        batch = batch if isinstance(batch, Batch) else Batch(ids=batch)
        rows = [None] * batch.shape[0] if state is None else state.rows
        out = self._through_prompt(batch, rows, state, want) if self.image_id is not None else None
        if out is None:
            out = self._through_layers(batch, rows, state, want)
        elif out.logits is not None:
            out.logits[..., self.image_id] = NEVER
        return out

    def nll(self, batch: Batch, reduction: Any = "sum") -> Tensor:
        """Nats of the targets of a text without images."""
        value = self.forward(batch, want=OutputRequest(nll=reduction)).nll
        assert value is not None
        return value

    def _through_prompt(self, batch: Batch, rows: Sequence[Any], state: Any, want: OutputRequest) -> ModelOutput:
        assert batch.ids is not None
        x, length = self.model.text.embed(batch.ids), batch.ids.shape[1]
        for index, row in enumerate(rows):
            seen = None if row is None else row.images
            if seen is not None:
                at = seen.places - row.count
                inside = (at >= 0) & (at < length)
                x[index, at[inside]] = seen.vectors[inside].to(x.dtype)
        found: ModelOutput = self.model.text(replace(batch, ids=None, embeddings=x), state, want)
        return found

    def _through_layers(self, batch: Batch, rows: Sequence[Any], state: Any, want: OutputRequest) -> ModelOutput:
        assert batch.ids is not None
        seen, spec = [None if row is None else row.images for row in rows], self.model.spec
        some = next((s.vectors for s in seen if s is not None), None)
        if some is None:
            some = torch.zeros(1, spec.vision.dim, device=self.model.device, dtype=self.model.dtype)
        latents = torch.stack([torch.zeros_like(some) if s is None else s.vectors for s in seen])[:, None]
        looks = torch.tensor([s is not None for s in seen], device=some.device)
        found: ModelOutput = self.model(
            batch.ids, latents=latents, seen=looks[:, None, None].expand(*batch.ids.shape, 1), lengths=batch.lengths,
            targets=batch.targets, state=state, want=want,
        )  # fmt: skip
        return found

    @torch.no_grad()
    def look(self, images: Sequence[Any]) -> Tensor:
        """Pillow images -> (images, N, D), what the model reads of each."""
        pixels = self.preprocess(list(images)).to(self.model.device, self.model.dtype)
        seen: Tensor = self.model.see(pixels)
        return seen if self.image_id is not None else seen[:, 0]

    def chat(
        self, messages: Sequence[Mapping[str, Any]], images: Sequence[Any], until: float = float("inf"), **more: Any
    ) -> tuple[list[int], Seen | None]:
        """The ids of a conversation, ready for the answer, and its images for `Engine.request`.

        Args:
            messages: `role` and `content`, a text or a list of `{"type": "text", "text": ...}` and `{"type": "image"}`.
            images: Pillow images, as many as there are parts of that type, in order.
            until, more: as `Tokenizer.chat_ids` takes them.

        Raises:
            RequestError: more images than the model takes, words that it does not know, or a prompt that is too long.
        """
        most = MOST_IMAGES if self.template and self.image_id is not None else 1
        if len(images) > most:
            raise RequestError(f"messages: {len(images)} images; this model takes {most}")
        ids = self._rendered(messages, until, more) if self.template else self._exchange(messages, len(images))
        if self.image_id is None:
            return ids, Seen(self.look(images)[0]) if images else None
        if ids.count(self.image_id) != len(images):
            raise RequestError(
                f"messages: the chat template wrote {ids.count(self.image_id)} image tokens for {len(images)} images"
            )
        if not images:
            return ids, None
        count = self.model.spec.image_tokens
        ids = [i for given in ids for i in [given] * (count if given == self.image_id else 1)]
        if len(ids) > self.max_length:
            raise too_long("messages", len(ids), self.max_length)
        places = torch.tensor([at for at, i in enumerate(ids) if i == self.image_id], device=self.model.device)
        return ids, Seen(self.look(images).flatten(0, 1), places)

    def _rendered(self, messages: Sequence[Mapping[str, Any]], until: float, more: Mapping[str, Any]) -> list[int]:
        return list(self.tokenizer.chat_ids(messages, add_generation_prompt=True, until=until, **more))

    def _exchange(self, messages: Sequence[Mapping[str, Any]], images: int) -> list[int]:
        """The prompt that the recipes train on: an image, and a question or nothing for a caption."""
        if len(messages) != 1 or messages[0]["role"] != "user" or not images:
            raise RequestError(
                "messages: this model was trained on one image and one question; send one message of the user with an "
                "image, and a question or no text for a caption"
            )
        content, token = messages[0]["content"], self.tokenizer
        text = " ".join(part["text"] for part in content if part["type"] == "text").strip()
        ids = known_ids(token, text, "messages")
        first = [] if self.image_id is None else [self.image_id]
        return [*first, *([] if token.bos_id is None else [token.bos_id]), *ids]


def sees(path: str | Path) -> bool:
    """Whether a folder holds a model of images: a run of a recipe of pictures, or one of a family that is read."""
    folder = _model_in(path)
    if not (folder / CONFIG).is_file():
        return False
    return read_table(folder / CONFIG).get("model_type") in (OWN, *FAMILIES)


def load_seeing(path: str | Path, *, device: str = "auto") -> Seeing:
    """The model of a run's folder, or of one in Hugging Face's layout, as the engine runs it.

    Raises:
        CheckpointError: no model of images, or a family's without a chat template, so that its prompt is not known;
        SpecError: see `Seeing`.
    """
    folder = _model_in(path)
    model, tokenizer = load_multimodal(folder, device=device), load_tokenizer(folder)
    template = tokenizer.chat_template is not None
    if not template and not (folder / RECORD).is_file():
        raise CheckpointError(f"{folder}: its tokenizer has no chat template; write it into chat_template.jinja")
    spec: Any = model.spec
    made = Seeing(model, tokenizer, load_preprocess(folder, int(spec.vision.image)), template=template)
    return made.eval()


def _model_in(path: str | Path) -> Path:
    place = Path(path)
    return place / "model" if (place / "model").is_dir() else place


@torch.no_grad()
def describe(
    model: Any, pixels: Tensor, prompt: Sequence[int], *, end: frozenset[int] | set[int], most: int = 32
) -> list[list[int]]:
    """The ids that follow a prompt, for each image of (B, C, H, H), up to an end token or `most` of them.

    Args:
        prompt: ids; of a `vlm` with its image token once, which is repeated as often as an image needs.

    Raises:
        RequestError: a model that writes no text, or a prompt without room for the image.
    """
    rows, state = len(pixels), model.start(len(pixels))
    banned = None
    if isinstance(model, VLM):
        image = banned = model.spec.image_id
        if list(prompt).count(image) != 1:
            raise RequestError(
                f"prompt: needs the image token ({image}) once, has it {list(prompt).count(image)} times"
            )
        at = list(prompt).index(image)
        prompt = [*prompt[:at], *[image] * model.spec.image_tokens, *prompt[at + 1 :]]
    limit = model.max_length
    if len(prompt) + most > limit:
        most = limit - len(prompt)
        if most < 1:
            raise RequestError(f"prompt: {len(prompt)} tokens with the image, and the model reads {limit}")
    ids = torch.tensor(list(prompt), device=model.device).expand(rows, -1)
    further: dict[str, Any] = {} if isinstance(model, VLM) else {"latents": model.see(pixels)}
    out: list[list[int]] = [[] for _ in range(rows)]
    open_rows = set(range(rows))
    for number in range(most):
        if isinstance(model, VLM):
            further = {"pixels": pixels} if number == 0 else {}
        logits = model(ids, state=state, want=LAST, **further).logits[:, -1]
        if banned is not None and banned < logits.shape[1]:
            logits[:, banned] = -torch.inf
        chosen = logits.argmax(-1)
        for row, token in enumerate(chosen.tolist()):
            if row in open_rows:
                if token in end:
                    open_rows.discard(row)
                else:
                    out[row].append(token)
        if not open_rows:
            break
        ids = chosen[:, None]
    return out
