"""What the deployments' YAML says, checked against the specifications that it follows, as JSON for deploy.mjs.

    deploy-manifests.py compose FILE
    deploy-manifests.py kubernetes DIRECTORY
"""

import json
import pathlib
import sys

import compose_spec
import helm_python as helm
import kubernetes_validate
import yaml

# Of Kubernetes: the oldest that the chart names or the next one that there are schemas for, and the newest.
VERSIONS = ("1.29", "1.37")


def compose(file):
    """The file as it is, if the specification allows it and all that its services name is there."""
    text = pathlib.Path(file).read_text(encoding="utf-8")
    compose_spec.PyCompose.from_yaml(text).validate()
    return yaml.safe_load(text)


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


def checked(found, where):
    """The objects, if each is what Kubernetes takes and nothing more."""
    for document in found:
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                sys.exit(f"{where}: {document['kind']}: {'/'.join(map(str, error.path))}: {error.message}")
    return found


def only(found, kind):
    (one,) = [document for document in found if document["kind"] == kind]
    return one


def pod(found, config):
    """What the suite looks at and runs of a pod."""
    spec = only(found, "Deployment")["spec"]["template"]["spec"]
    (init,) = spec["initContainers"]
    env = {entry["name"]: entry["value"] for entry in init["env"] if "value" in entry}
    directory = env["CREDENTIALS_DIRECTORY"].lstrip("/")
    (volume,) = [volume for volume in spec["volumes"] if "projected" in volume]
    items = [item for source in volume["projected"]["sources"] for item in source["secret"]["items"]]
    return {
        "config": config,
        "init": [*init["command"], *init["args"]],
        "env": env,
        "secrets": [f"{directory}/{item['path']}" for item in items],
        "objects": found,
    }


def plain(directory):
    """The manifests, all of which the kustomization names."""
    folder = directory / "kubernetes"
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    (generated,) = kustomization["configMapGenerator"]
    found = []
    for file in [*kustomization["resources"], *sorted(str(file.relative_to(folder)) for file in folder.glob("optional/*.yaml"))]:
        found += checked(documents((folder / file).read_text(encoding="utf-8")), file)
    named = {*kustomization["resources"], "kustomization.yaml"}
    forgotten = [file.name for file in folder.glob("*.yaml") if file.name not in named]
    if forgotten or generated["files"] != ["portcullis.toml"]:
        sys.exit(f"the kustomization does not name {forgotten or 'portcullis.toml'}")
    config = (folder / "portcullis.toml").read_text(encoding="utf-8")
    return pod(found, config) | {"generated": generated["name"]}


def rendered(directory, values):
    """What the chart makes of these values."""
    said = yaml.safe_load(values.read_text(encoding="utf-8")) if values else {}
    with helm.Chart.load(str(directory / "helm")) as chart:
        chart.validate_schema(said)
        made = chart.render(said, name="portcullis", namespace="gateways")
    manifests = {name: text for name, text in made.items() if name.endswith(".yaml")}
    found = [document for name, text in sorted(manifests.items()) for document in checked(documents(text), name)]
    (notes,) = [text for name, text in made.items() if name.endswith("NOTES.txt")]
    return pod(found, only(found, "ConfigMap")["data"]["portcullis.toml"]) | {"notes": notes}


def refused(directory, said):
    """Whether the chart's schema refuses values."""
    with helm.Chart.load(str(directory / "helm")) as chart:
        try:
            chart.validate_schema(said)
        except helm.HelmError:
            return True
    return False


# Values that a chart must not take: a secret in a URL, a URL in the clear, misspelled settings.
WRONG = [
    {"database": {"url": "postgres://portcullis:hunter2@db/portcullis"}},
    {"publicUrl": "http://mcp.example.com"},
    {"replicsa": 3},
    {"vault": {"keys": []}},
    {"replicas": 0},
    {"image": {"digest": "latest"}},
]


def kubernetes(directory):
    sets = sorted((directory / "helm/examples").glob("*.yaml"))
    sources = {"kubernetes": plain(directory), "helm": rendered(directory, None)}
    sources |= {f"helm {values.stem}": rendered(directory, values) for values in sets}
    linted = helm.lint(str(directory / "helm"), strict=True) if sets else None
    return {
        "sources": sources,
        "lint": [message for message in linted["messages"] if message["severity"] > 1] + linted["errors"],
        "taken": [said for said in WRONG if not refused(directory, said)],
    }


kinds = {"compose": lambda file: compose(file), "kubernetes": lambda folder: kubernetes(pathlib.Path(folder))}
json.dump(kinds[sys.argv[1]](sys.argv[2]), sys.stdout)
