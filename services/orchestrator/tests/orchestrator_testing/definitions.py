"""Definitions that tests register."""

LIMITS = "{steps: 40, tokens: 60000, cost_usd: 0.50, wall_time: 2d, tool_errors: 3, repeats: 3, on_limit: fail}"

REFUND_DESK = f"""
apiVersion: slipway.dev/v1
kind: Agent
metadata: {{name: refund-desk, labels: {{team: support}}}}
spec:
  type: workflow
  description: Answers refund requests.
  input: {{type: object, required: [message], properties: {{message: {{type: string}}}}}}
  output: {{type: object, required: [reply], properties: {{reply: {{type: string}}}}}}
  limits: {LIMITS}
  steps:
    - {{id: given, set: "${{input.message}}"}}
    - {{id: policy, retrieve: {{collection: handbook, query: "${{input.message}}", limit: 4}}}}
    - id: answer
      model: {{task: grounded-answer, prompt: "${{input.message}}", context: "${{steps.policy.output.passages}}"}}
    - id: amount
      tool: {{name: python, arguments: {{code: "print(1)"}}}}
      retry: {{attempts: 3, backoff: 100ms, max_backoff: 200ms, on: [UNAVAILABLE, TIMEOUT]}}
    - id: nothing
      when: "steps.amount.output.refund > 1000"
      tool: {{name: ledger.post, arguments: {{amount: 1}}}}
    - id: pay
      when: "steps.amount.output.refund > 0"
      tool: {{name: ledger.post, arguments: {{amount: "${{steps.amount.output.refund}}"}}}}
      approval:
        when: "steps.amount.output.refund > 100"
        approvers: ["role:refund-approver"]
        expires: 7d
        on_expiry: reject
  result:
    reply: "${{steps.answer.output.text}}"
    paid: "${{steps.pay.output}}"
    nothing: "${{steps.nothing.output}}"
"""


def workflow(
    steps: str,
    result: str = "{}",
    *,
    name: str = "refund-desk",
    limits: str = LIMITS,
    properties: str = "{message: {type: string}}",
    output: str = "{type: object}",
    more: str = "",
) -> str:
    """A definition with these steps (YAML flow or block lines, indented by four)."""
    return f"""
apiVersion: slipway.dev/v1
kind: Agent
metadata: {{name: {name}}}
spec:
  type: workflow
  input: {{type: object, properties: {properties}}}
  output: {output}
  limits: {limits}
{more}
  steps:
{steps}
  result: {result}
"""
