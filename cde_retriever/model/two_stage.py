"""Join both stages to the two-stage model (paper, section 4.2).

    phi(d; D) = M2( M1(d^1) ... M1(d^J),  E(d_1) ... E(d_T) )        document, T tokens
    psi(q; D) = M2( M1(d^1) ... M1(d^J),  E(q_1) ... E(q_T) )        query, same M2, same context

`FirstStage` (M1) turns context documents into dataset embeddings, (J, d). A `SecondStage` (M2) first prepares those
into a state of its own, which depends on the context alone, and then embeds any number of texts given that state.
The subclasses of `SecondStage` are the places where text can see the context; `LAYOUTS` names them. A further one
adds a class and a name, nothing else.

Shapes: b texts, s tokens, c context documents, d width. Dropout is off in both stages (paper, section 4.2).
"""

from torch import Tensor, nn
from transformers import PreTrainedModel

from cde_retriever.model.cached import CachedSecondStage
from cde_retriever.model.config import ModelConfig
from cde_retriever.model.joint import JointSecondStage
from cde_retriever.model.late import LateSecondStage
from cde_retriever.model.stages import FirstStage, SecondStage

LAYOUTS: dict[str, type[SecondStage]] = {
    "cached": CachedSecondStage,
    "joint": JointSecondStage,
    "late": LateSecondStage,
}


class TwoStageModel(nn.Module):
    """Both stages and nothing else; texts come as token ids.

    Args:
        config: Architecture; weights are random until a checkpoint is loaded.
        backbone: A pretrained encoder that becomes the second stage's; None for one with random weights.
    """

    def __init__(self, config: ModelConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__()
        self.config = config
        self.second_stage = LAYOUTS[config.context_attention](config, backbone)
        self.first_stage = FirstStage(config, self.second_stage if config.share_backbone else None)
        if config.share_word_embeddings:
            self.first_stage.backbone.set_input_embeddings(self.second_stage.backbone.get_input_embeddings())
        self.eval()

    @property
    def dimension(self) -> int:
        """Width of the output vectors."""
        return self.config.plain_width + self.config.sketch_width

    def stored_state(self) -> dict[str, Tensor]:
        """Return the state to store: every tensor once, what the stages share under the second stage."""
        state = self.state_dict()
        if self.config.share_backbone:
            state = {name: tensor for name, tensor in state.items() if not name.startswith("first_stage.")}
        seen: set[int] = set()
        for name, parameter in self.named_parameters(remove_duplicate=False):  # the second stage's come first
            if id(parameter) in seen:
                state.pop(name, None)
            seen.add(id(parameter))
        return state
