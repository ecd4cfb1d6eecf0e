"""cluster.yaml in the hands of Ray's own AWS provider, against an EC2 in this process: what is started, and by whom."""

import copy
import json
import re
from pathlib import Path

import boto3
import botocore.client
import pytest
import yaml
from moto import mock_aws

from rayseg.cluster import clusterfile

ROOT = Path(__file__).parents[2]
REGION, SSH_FROM = "eu-central-1", "203.0.113.7"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the stand-in for EC2


@pytest.fixture(scope="module")
def account(tmp_path_factory):
    """An account as docs/cluster/README.md prepares it; gives the values for cluster.yaml's blanks."""
    environ = {"HOME": str(tmp_path_factory.mktemp("home")), "AWS_DEFAULT_REGION": REGION}
    environ |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name, value in environ.items():
            patch.setenv(name, value)
        ec2, iam = boto3.client("ec2"), boto3.client("iam")
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24", AvailabilityZone=f"{REGION}a")["Subnet"][
            "SubnetId"
        ]
        ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": True})
        group = ec2.create_security_group(VpcId=vpc, GroupName="rayseg", Description="nodes")["GroupId"]
        ec2.authorize_security_group_ingress(**rules(group))
        for who in ("head", "worker"):
            trust = (ROOT / "docs/cluster/aws/trust.json").read_text()
            iam.create_role(RoleName=f"rayseg-{who}", AssumeRolePolicyDocument=trust)
            iam.put_role_policy(RoleName=f"rayseg-{who}", PolicyName="rayseg", PolicyDocument=policy(who))
            iam.create_instance_profile(InstanceProfileName=f"rayseg-{who}")
            iam.add_role_to_instance_profile(InstanceProfileName=f"rayseg-{who}", RoleName=f"rayseg-{who}")
        yield {
            "aws_region": REGION,
            "image_id": ec2.describe_images()["Images"][0]["ImageId"],
            "subnet_id": subnet,
            "id_of_the_security_group_that_takes_ssh_from_your_addresses_alone": group,
        }


@pytest.fixture
def cloud(account):
    """cluster.yaml as filled in for that account."""
    return yaml.safe_load(filled("cluster.yaml", account))


def filled(name, values):
    return re.sub(r"FILL_IN_(\w+)", lambda blank: values.get(blank[1], "mine"), (ROOT / name).read_text())


def rules(group):
    values = {"id_of_the_security_group": group, "your_address": SSH_FROM}
    return json.loads(filled("docs/cluster/aws/security-group.json", values))


def policy(who):
    return filled(f"docs/cluster/aws/{who}-policy.json", {"account_number": "123456789012"})


def provider_of(found):
    """Do what `ray up` does until it would start something; give the provider and the whole configuration."""
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(found))
    validate_config(prepared)
    whole = bootstrap_aws(prepared)
    return AWSNodeProvider(whole["provider"], whole["cluster_name"]), whole


def start(provider, whole, kind):
    node_config = whole["available_node_types"][kind]["node_config"]
    tags = {"ray-node-type": "head" if kind == "head" else "worker", "ray-user-node-type": kind}
    (number,) = provider.create_node(node_config, tags, 1)
    return number


def instance(number):
    found = boto3.client("ec2").describe_instances(InstanceIds=[number])
    return found["Reservations"][0]["Instances"][0]


@pytest.mark.parametrize("kind", ["head", "gpu_1", "gpu_4"])
def test_instances_are_as_the_file_says(cloud, kind):
    assert clusterfile.examine(cloud, "cluster.yaml") == []
    provider, whole = provider_of(cloud)
    found = instance(start(provider, whole, kind))
    assert found["MetadataOptions"]["HttpTokens"] == "required"
    assert found["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    assert [group["GroupName"] for group in found["SecurityGroups"]] == ["rayseg"]
    assert found.get("InstanceLifecycle") == (None if kind == "head" else "spot")
    assert found["IamInstanceProfile"]["Arn"].endswith("/rayseg-head" if kind == "head" else "/rayseg-worker")


def ssh_ranges(number):
    """Give the ranges that may reach an instance by an address."""
    names = [group["GroupId"] for group in instance(number)["SecurityGroups"]]
    groups = boto3.client("ec2").describe_security_groups(GroupIds=names)["SecurityGroups"]
    return {each["CidrIp"] for group in groups for rule in group["IpPermissions"] for each in rule["IpRanges"]}


def test_ssh_is_open_to_the_range_given_and_nobody_else(cloud):
    provider, whole = provider_of(cloud)
    assert ssh_ranges(start(provider, whole, "head")) == {f"{SSH_FROM}/32"}


def test_without_a_group_of_ones_own_ray_opens_ssh_to_all(cloud):
    """Why doctor refuses it, with the narrow range in provider.security_group too."""
    for kind in cloud["available_node_types"].values():
        kind["node_config"].pop("SecurityGroupIds")
    narrow = [{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": f"{SSH_FROM}/32"}]}]
    cloud["provider"]["security_group"] = {"GroupName": "narrow", "IpPermissions": narrow}
    said = [finding.what for finding in clusterfile.examine(cloud, "cluster.yaml") if finding.is_error]
    assert len(said) == 3
    assert all("0.0.0.0/0" in line for line in said)
    provider, whole = provider_of(cloud)
    assert ssh_ranges(start(provider, whole, "gpu_1")) == {"0.0.0.0/0", f"{SSH_FROM}/32"}


def test_head_may_do_what_its_provider_calls_and_no_more(cloud, monkeypatch):
    provider, whole = provider_of(cloud)
    called = set()
    call = botocore.client.BaseClient._make_api_call

    def noted(self, operation, kwargs):
        called.add(f"{self.meta.service_model.service_name}:{operation}")
        return call(self, operation, kwargs)

    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", noted)
    numbers = [start(provider, whole, "gpu_1") for _ in range(3)]
    provider.non_terminated_nodes({})
    provider.set_node_tags(numbers[0], {"ray-node-status": "up-to-date"})
    provider.node_tags(numbers[0])
    provider.internal_ip(numbers[0])
    provider.terminate_node(numbers[0])
    provider.terminate_nodes(numbers[1:])
    actions = {action for part in json.loads(policy("head"))["Statement"] for action in _listed(part["Action"])}
    assert {"ec2:RunInstances", "ec2:TerminateInstances", "ec2:CreateTags"} <= called
    assert called <= actions
    assert {action for action in actions if action.startswith("ec2:") and "Describe" not in action} <= called


def _listed(value):
    return value if isinstance(value, list) else [value]
