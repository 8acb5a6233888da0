"""Print the Workflow of run-as-step.yaml, by Hera: python own_workflow.py | kubectl create -f -"""

import json

from hera.workflows import DAG, Task, Workflow
from hera.workflows.models import TemplateRef


def run(name: str, template: str, when: str | None = None, **parameters: str) -> Task:
    """A step that is a run of this bundle."""
    values = json.dumps([{"name": key, "value": value} for key, value in parameters.items()])
    arguments = {"name": name, "template": template, "parameters": values}
    place = TemplateRef(name="run-as-step", template="run")
    return Task(name=name, template_ref=place, arguments=arguments, when=when)


with Workflow(generate_name="run-as-step-", namespace="argo", entrypoint="main") as workflow:
    some = "{{=jsonpath(tasks['totals'].outputs.parameters.result, '$.ERROR') > 0}}"
    with DAG(name="main"):
        totals = run("totals", "log-count", numParts="2", runDir="daily")
        totals >> run("errors", "map-reduce", some, numParts="2", runDir="daily")

print(workflow.to_yaml())
