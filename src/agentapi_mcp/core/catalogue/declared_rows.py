"""The rows of agents as a configuration file would write them."""

from agentapi_mcp.base.ids import AgentId, ModelRowId, new_id
from agentapi_mcp.core.catalogue.models import AgentDeclaration, AgentRow, ModelDeclaration, ModelRow


def declared_row(agent: AgentDeclaration, row: AgentRow | None) -> AgentRow:
    """Return the row of an agent with what its declaration says, or a new one, with ids that no table has.

    Models that another program added stay; those that another configuration file has written are left out.
    """
    known = {} if row is None else {model.name: model for model in row.models}
    own = {model.name: _model_row(model, known.get(model.name)) for model in agent.models}
    others = [model for name, model in known.items() if name not in own and not model.declared]
    return AgentRow(
        id=AgentId(new_id()) if row is None else row.id,
        name=agent.name,
        backend=agent.backend,
        description=agent.description,
        enabled=agent.enabled,
        means=None if row is None else row.means,
        instructions=agent.instructions,
        default_model=agent.default_model,
        models=(*own.values(), *others),
    )


def _model_row(model: ModelDeclaration, row: ModelRow | None) -> ModelRow:
    return ModelRow(
        id=ModelRowId(new_id()) if row is None else row.id,
        name=model.name,
        model_id=model.model_id,
        provider=model.provider,
        display_name=model.display_name,
        description=model.description,
        enabled=model.enabled,
        context_window=model.context_window,
        max_output_tokens=model.max_output_tokens,
        prices=model.prices,
        declared=True,
    )
