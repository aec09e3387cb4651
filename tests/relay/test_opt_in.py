"""Fields that can be opened for single tenants."""

import pytest

from service.protocol.fields import OPT_IN
from tests.conftest import Start
from tests.protocol.test_generation import ENDPOINTS
from tests.support.exchanges import CHAT, COMPLETION, MESSAGE, RESPONSE, is_refusal
from tests.support.gateways import HOUSE

TENANTS = """
tenants:
  {guest: {allow_fields: []}, lab: {allow_fields: [min_tokens]}, staff: {allow_fields: all}, plain: {}, default: {}}
"""
BOTH = "min_tokens ignore_eos"


@pytest.mark.parametrize(
    ("tenant", "opened"), [("guest", ""), ("lab", "min_tokens"), ("staff", BOTH), ("plain", ""), ("default", BOTH)]
)
async def test_a_tenant_may_have_only_the_fields_that_are_opened_for_it(tenant: str, opened: str, start: Start) -> None:
    gateway = await start(HOUSE + TENANTS)
    headers = {"x-roundhouse-tenant": tenant}
    for case, name, value in ((CHAT, "min_tokens", 1), (COMPLETION, "min_tokens", 0), (RESPONSE, "ignore_eos", True)):
        response = await gateway.http.post(case.path, json=case.body() | {name: value}, headers=headers)
        if name in opened:
            assert response.status_code == 200
        else:
            assert is_refusal(case, response, 400, "unsupported_parameter")
            assert response.json()["error"]["param"] == name
            assert "allow_fields" in response.json()["error"]["message"]
    tag = CHAT.body() | {"response_format": {"type": "structural_tag", "format": {"type": "any_text"}}}
    response = await gateway.http.post(CHAT.path, json=tag, headers=headers)
    if tenant in ("staff", "default"):
        assert response.status_code == 200
    else:
        assert response.json()["error"]["param"] == "response_format.type"
    # What the APIs themselves have stays open to everyone.
    for case, fields in (
        (CHAT, {"seed": 1, "logprobs": True, "top_logprobs": 2, "logit_bias": {"5": 1}, "stop": ["x"], "n": 2}),
        (MESSAGE, {"top_k": 5, "stop_sequences": ["x"]}),
        (RESPONSE, {"truncation": "auto", "top_logprobs": 2}),
    ):
        assert (await gateway.http.post(case.path, json=case.body() | fields, headers=headers)).status_code == 200


async def test_extra_fields_open_one_for_everybody(start: Start) -> None:
    gateway = await start(HOUSE + TENANTS + "extra_fields: [min_tokens]")
    for name, status in (("min_tokens", 200), ("stop_token_ids", 400)):
        fields = CHAT.body() | {name: [1] if status == 400 else 1}
        answer = await gateway.http.post(CHAT.path, json=fields, headers={"x-roundhouse-tenant": "plain"})
        assert answer.status_code == status


def test_each_of_them_is_a_field_of_some_endpoint() -> None:
    fields = {name for endpoint in ENDPOINTS.values() for name in endpoint.body.__struct_fields__}
    assert set(OPT_IN) <= fields
