"""What is missing in an account before a release can start, each with the command that mends it; and the policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deploy_targets.clouds import look_for_problems, problem
from headgate.errors import HeadgateError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy_targets.sagemaker.aws import Aws
    from deploy_targets.sagemaker.settings import SageMakerSettings
    from headgate.findings import Finding

ACTIONS = (
    "sagemaker:CreateModel", "sagemaker:DescribeModel", "sagemaker:ListModels", "sagemaker:DeleteModel",
    "sagemaker:CreateEndpointConfig", "sagemaker:DescribeEndpointConfig", "sagemaker:ListEndpointConfigs",
    "sagemaker:DeleteEndpointConfig", "sagemaker:CreateEndpoint", "sagemaker:DescribeEndpoint",
    "sagemaker:UpdateEndpoint", "sagemaker:UpdateEndpointWeightsAndCapacities", "sagemaker:DeleteEndpoint",
    "sagemaker:InvokeEndpoint", "sagemaker:AddTags", "sagemaker:ListTags",
    "application-autoscaling:DescribeScalableTargets", "application-autoscaling:RegisterScalableTarget",
    "application-autoscaling:DeregisterScalableTarget", "application-autoscaling:PutScalingPolicy",
    "application-autoscaling:DescribeScalingPolicies",
    "cloudwatch:DescribeAlarms", "cloudwatch:PutMetricAlarm", "cloudwatch:DeleteAlarms",
    "cloudwatch:GetMetricData", "logs:DescribeLogStreams", "logs:GetLogEvents",
)  # fmt: skip
"""What a release asks of the services whose resources the policy does not name."""


OF_COMPONENTS = (
    "sagemaker:CreateInferenceComponent", "sagemaker:DescribeInferenceComponent", "sagemaker:ListInferenceComponents",
    "sagemaker:UpdateInferenceComponent", "sagemaker:UpdateInferenceComponentRuntimeConfig",
    "sagemaker:DeleteInferenceComponent",
)  # fmt: skip
"""And where it hosts on inference components."""


def findings(aws: Aws, settings: SageMakerSettings) -> list[Finding]:
    """Every problem; nothing where a release can start."""
    try:
        caller = aws.call("sts", "get_caller_identity")["Arn"]
    except HeadgateError as error:
        return [problem("aws", error.message, error.fix)]
    return look_for_problems(
        "aws", (
            _bucket(aws, settings), _role(aws, settings), _quota(aws, settings), _permissions(aws, caller, settings),
            _alarms(aws, settings),
        )
    )  # fmt: skip


def policy(settings: SageMakerSettings) -> dict[str, Any]:
    """The least that whoever releases needs, as an IAM policy; of ECR, for pushing the image."""
    bucket, _, prefix = settings.captures.removeprefix("s3://").partition("/")
    partition = settings.role.split(":")[1]
    captured = f"arn:{partition}:s3:::{bucket}/{prefix}".rstrip("/")
    scaler = "aws-service-role/sagemaker.application-autoscaling.amazonaws.com/*"
    ecr = [
        "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:CompleteLayerUpload",
        "ecr:GetDownloadUrlForLayer", "ecr:InitiateLayerUpload", "ecr:PutImage", "ecr:UploadLayerPart",
    ]  # fmt: skip
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Sid": "Release", "Effect": "Allow", "Action": _actions(settings), "Resource": "*"},
            {
                "Sid": "HandOverTheRole", "Effect": "Allow", "Action": ["iam:PassRole", "iam:GetRole"],
                "Resource": settings.role,
            },
            {
                "Sid": "ReadAndRemoveCaptures", "Effect": "Allow",
                "Action": ["s3:GetObject", "s3:DeleteObject"], "Resource": f"{captured}/*",
            },
            {
                "Sid": "ListCaptures", "Effect": "Allow", "Action": "s3:ListBucket",
                "Resource": f"arn:{partition}:s3:::{bucket}",
            },
            {
                "Sid": "ScaleTheFirstTime", "Effect": "Allow", "Action": "iam:CreateServiceLinkedRole",
                "Resource": f"arn:{partition}:iam::*:role/{scaler}",
            },
            {"Sid": "Push", "Effect": "Allow", "Action": [*ecr, "ecr:GetAuthorizationToken"], "Resource": "*"},
            {
                "Sid": "SeeWhatIsMissing", "Effect": "Allow", "Resource": "*",
                "Action": ["iam:SimulatePrincipalPolicy", "servicequotas:ListServiceQuotas"],
            },
            *_of_the_key(settings),
        ],
    }  # fmt: skip


def _of_the_key(settings: SageMakerSettings) -> list[dict[str, Any]]:
    """What a key of one's own needs: captures are read with it, and SageMaker is let use it for the machines' disks."""
    if not settings.kms_key:
        return []
    actions = ["kms:CreateGrant", "kms:Decrypt", "kms:DescribeKey"]
    named = settings.kms_key if settings.kms_key.startswith("arn:") else "*"
    return [{"Sid": "UseTheKey", "Effect": "Allow", "Action": actions, "Resource": named}]


def _bucket(aws: Aws, settings: SageMakerSettings) -> Iterator[Finding]:
    bucket = settings.captures.removeprefix("s3://").partition("/")[0]
    if aws.find("s3", "head_bucket", Bucket=bucket) is None:
        yield problem("target.captures", f"there is no bucket {bucket}", f"aws s3 mb s3://{bucket}")


def _role(aws: Aws, settings: SageMakerSettings) -> Iterator[Finding]:
    name = settings.role.rpartition("/")[2]
    found = aws.find("iam", "get_role", RoleName=name)
    fix = f"make it, with sagemaker.amazonaws.com as who may take it: aws iam create-role --role-name {name} …"
    if found is None:
        yield problem("target.role", f"there is no role {name}", fix)
        return
    if "sagemaker.amazonaws.com" not in str(found["Role"].get("AssumeRolePolicyDocument", "")):
        yield problem(
            "target.role",
            f"SageMaker may not take the role {name}",
            fix.replace("create-role", "update-assume-role-policy"),
        )


def _alarms(aws: Aws, settings: SageMakerSettings) -> Iterator[Finding]:
    if not settings.alarms:
        return
    found = aws.pages("cloudwatch", "describe_alarms", "MetricAlarms", AlarmNames=list(settings.alarms))
    if missing := set(settings.alarms) - {one["AlarmName"] for one in found}:
        yield problem(
            "target.alarms", f"there is no metric alarm {', '.join(sorted(missing))}",
            f"aws cloudwatch put-metric-alarm --alarm-name {min(missing)} …, of what docs/sagemaker.md names",
        )  # fmt: skip


def _quota(aws: Aws, settings: SageMakerSettings) -> Iterator[Finding]:
    """New accounts have none of most types: https://docs.aws.amazon.com/general/latest/gr/sagemaker.html."""
    wanted = f"{settings.instance} for endpoint usage"
    # Two while a release goes on: the champion's and the candidate's.
    components = settings.inference_components
    needed = 2 if components is None else components.machines
    for quota in aws.pages("service-quotas", "list_service_quotas", "Quotas", ServiceCode="sagemaker"):
        if quota["QuotaName"] == wanted and quota["Value"] < needed:
            yield problem(
                "target.instance", f"the account may have {quota['Value']:g} of {wanted}, and a release needs {needed}",
                "aws service-quotas request-service-quota-increase --service-code sagemaker "
                f"--quota-code {quota['QuotaCode']} --desired-value {needed}",
            )  # fmt: skip


def _actions(settings: SageMakerSettings) -> list[str]:
    return [*ACTIONS, *(OF_COMPONENTS if settings.inference_components is not None else ())]


def _permissions(aws: Aws, caller: str, settings: SageMakerSettings) -> Iterator[Finding]:
    if ":root" in caller:
        return
    results = aws.pages(
        "iam", "simulate_principal_policy", "EvaluationResults", PolicySourceArn=_principal(caller),
        ActionNames=_actions(settings),
    )  # fmt: skip
    denied = [found["EvalActionName"] for found in results if found["EvalDecision"] != "allowed"]
    if denied:
        fix = "add them; the whole policy: headgate doctor --policy release.yaml"
        yield problem("permissions", f"{caller} may not {', '.join(denied)}", fix)


def _principal(caller: str) -> str:
    """The role of a session; IAM does not simulate sessions."""
    partition, account, rest = caller.split(":")[1], caller.split(":")[4], caller.rpartition(":")[2]
    if not rest.startswith("assumed-role/"):
        return caller
    return f"arn:{partition}:iam::{account}:role/{rest.split('/')[1]}"
