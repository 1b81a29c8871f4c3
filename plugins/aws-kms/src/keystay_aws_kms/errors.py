"""Maps what boto3 raises, at one place.

What AWS wrote is never quoted: a refused signature comes back with the canonical request, and
that holds the session token. Only ARNs are taken from a message.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from botocore import exceptions as sdk

from keystay.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    ConfigurationError,
    KeyNotFoundError,
    KeystayError,
    KeyUnusableError,
    LoginError,
)
from keystay_aws_kms.error_codes import (
    CREDENTIALS,
    DENIED,
    EXPIRED,
    LOST,
    code_of,
    is_passing,
    is_throttled,
)

__all__ = ["Call", "raise_late", "raise_translated"]

# What their text may hold is anybody's guess: parameters, a credential process's output.
_NOT_CHAINED = (
    sdk.CredentialRetrievalError, sdk.TokenRetrievalError, sdk.ParamValidationError,
    sdk.PartialCredentialsError,
)  # fmt: skip
_OTHER_SERVICES = {
    "AssumeRole": "sts", "AssumeRoleWithWebIdentity": "sts", "AssumeRoleWithSAML": "sts",
    "GetSessionToken": "sts", "GetRoleCredentials": "sso", "CreateToken": "sso-oauth",
}  # fmt: skip
_RESOURCE = re.compile(r"on resource: (arn:aws[\w:/+=,.@*-]+)")
_PRINCIPAL = re.compile(r"User: (arn:aws[\w:/+=,.@-]+)")
_REQUEST_ID = re.compile(r"[0-9A-Za-z-]{1,64}")
_POLICY = "The whole policy that keystay needs is in the README of keystay-aws-kms."


@dataclass(frozen=True, slots=True)
class Call:
    """One call of KMS, for messages.

    Attributes:
        operation: As KMS calls it, such as `Sign`.
        key: The key it is about: an ARN, or what the user wrote.
        where: Region and endpoint, in words.
    """

    operation: str
    key: str
    where: str


def raise_translated(error: Exception, call: Call) -> NoReturn:
    """Raise the error of ours for one that boto3 raised; chained where that shows no secret.

    Raises:
        KeystayError: Always.
    """
    if isinstance(error, KeystayError):
        raise error
    _raise(_translate(error, call), error)


def raise_late(error: Exception | None, call: Call, seconds: float, attempts: int) -> NoReturn:
    """Raise what is to be said when the deadline has passed.

    Args:
        error: What the last attempt that was answered raised, or None.
        call: What was called.
        seconds: The deadline's length.
        attempts: How many there were.

    Raises:
        BackendUnavailableError: Always; a `BackendTimeoutError` when there was no answer.
    """
    tries = f"{attempts} attempt{'s' if attempts > 1 else ''}"
    if error is not None and is_throttled(error):
        _raise(
            BackendUnavailableError(
                f"AWS KMS throttled {call.operation} for {seconds:g} s "
                f"({tries}, {call.where}){_request(error)}.",
                cause="All callers of the account share the region's quota of cryptographic "
                "operations on asymmetric keys, a few hundred a second.",
                hint="Wait a minute and let fewer processes sign at once (keep the access token "
                "while it is good); look at the quota in Service Quotas, under AWS KMS, and ask "
                "for more.",
                code="aws-throttled",
            ),
            error,
        )
    if error is None or isinstance(error, LOST):
        timeout = BackendTimeoutError(
            f"AWS KMS did not answer {call.operation} within {seconds:g} s "
            f"({tries}, {call.where}).",
            cause="The network, the proxy or the endpoint does not let the request through, "
            "or fetching the credentials takes that long.",
            hint="Check the route to KMS (VPC endpoint, security group, proxy): "
            f"aws kms describe-key --key-id {call.key}",
        )
        _raise(timeout, error)
    translated = _translate(error, call)
    _raise(
        BackendUnavailableError(
            f"{translated.message.removesuffix('.')}, for {seconds:g} s ({tries}).",
            cause=translated.cause,
            hint=translated.hint,
            code=translated.code,
        ),
        error,
    )


def _raise(ours: KeystayError, error: Exception | None) -> NoReturn:
    # Called outside any except block, so that an error that is not chained is no context either.
    secret = isinstance(error, _NOT_CHAINED) or (
        error is not None and code_of(error) in CREDENTIALS
    )
    raise ours from (None if secret else error)


def _request(error: Exception | None) -> str:
    """AWS's id of the request, for its support; in brackets."""
    if not isinstance(error, sdk.ClientError):
        return ""
    request = str(error.response.get("ResponseMetadata", {}).get("RequestId", ""))
    return f" (request {request})" if _REQUEST_ID.fullmatch(request) else ""


def _translate(error: Exception, call: Call) -> KeystayError:
    if isinstance(error, sdk.ClientError):
        return _refusal(error, call)
    if isinstance(error, sdk.BotoCoreError):
        return _before_kms(error, call)
    return BackendError(
        f"AWS KMS's answer to {call.operation} cannot be read ({type(error).__name__}, "
        f"{call.where}).",
        cause="Something else than KMS answered, such as a proxy, or the SDK is damaged.",
        hint="Check the endpoint and the proxy; pip install --upgrade boto3",
        code="aws-answer-invalid",
    )


def _refusal(error: sdk.ClientError, call: Call) -> KeystayError:
    """What AWS said no to."""
    code, operation = code_of(error), str(error.operation_name or call.operation)
    if code in DENIED:
        return _denied(error, call, operation)
    if code in CREDENTIALS:
        return _bad_credentials(error, code, call)
    make = _FATAL.get(code)
    if make is not None:
        kind, message, cause, hint, our_code = make
        fill = {"key": call.key, "where": call.where, "operation": operation}
        return kind(
            message.format(**fill).removesuffix(".") + f"{_request(error)}.",
            cause=cause.format(**fill),
            hint=hint.format(**fill),
            code=our_code,
        )
    if is_passing(error):
        return BackendUnavailableError(
            f"AWS KMS failed {operation} with {_word(code)} ({call.where}){_request(error)}.",
            cause="A fault inside AWS, or a quota that is used up.",
            hint="Try again; look at the AWS Health Dashboard of the region.",
            code="aws-unavailable",
        )
    return BackendError(
        f"AWS KMS refused {operation} with {_word(code)} ({call.where}){_request(error)}.",
        hint=f"Look it up in CloudTrail: {operation} on {call.key}.",
        code="aws-refused",
    )


def _denied(error: sdk.ClientError, call: Call, operation: str) -> KeystayError:
    said = str(error.response.get("Error", {}).get("Message", ""))
    service = _OTHER_SERVICES.get(operation, "kms")
    action = f"{service}:{operation}"
    named = _RESOURCE.search(said)
    resource = named[1] if named else call.key
    if service != "kms" and not named:
        resource = "the role that the AWS profile assumes"
    elif "alias/" in resource:
        # An alias is no resource that a key operation can be granted on.
        resource = f"the key behind {resource} ({call.where})"
    who = _PRINCIPAL.search(said)
    return KeyUnusableError(
        f"Access denied: {action} on {resource}{_request(error)}.",
        cause=f"Neither the key policy nor an IAM policy of {who[1] if who else 'the caller'} "
        "allows it, or one denies it.",
        hint=f"Grant {action} on {resource} to {who[1] if who else 'the caller'}. {_POLICY}",
        code="aws-access-denied",
    )


def _bad_credentials(error: sdk.ClientError, code: str, call: Call) -> KeystayError:
    said = str(error.response.get("Error", {}).get("Message", ""))
    if code == "RequestExpired" or "Signature expired" in said or "not yet current" in said:
        return LoginError(
            f"AWS refused the request's time stamp ({_word(code)}){_request(error)}.",
            cause="The clock of this machine is wrong: AWS allows five minutes.",
            hint="Set the clock (NTP, chrony).",
            code="aws-clock-wrong",
        )
    if code in EXPIRED:
        return LoginError(
            f"The AWS session token has expired{_request(error)}.",
            cause="Temporary credentials in the environment or a file are not renewed by anybody.",
            hint="Get new ones (aws sso login), or use a role or profile that boto3 renews itself.",
            code="aws-credentials-expired",
        )
    return LoginError(
        f"AWS refused the credentials with {_word(code)} ({call.where}){_request(error)}.",
        cause="The access key does not exist, its secret is wrong, the session token belongs to "
        "another, or the region is not enabled for the account.",
        hint="Check them with: aws sts get-caller-identity",
        code="aws-credentials-refused",
    )


def _before_kms(error: sdk.BotoCoreError, call: Call) -> KeystayError:
    """What went wrong before KMS could answer."""
    for kinds, kind, message, cause, hint, code in _LOCAL:
        if isinstance(error, kinds):
            fill = {"where": call.where, "operation": call.operation}
            return kind(message.format(**fill), cause=cause, hint=hint, code=code)
    return BackendUnavailableError(
        f"boto3 could not send {call.operation} ({type(error).__name__}, {call.where}).",
        cause="Its configuration or the network.",
        hint=f"Check that this works: aws kms describe-key --key-id {call.key}",
        code="aws-unreachable",
    )


def _word(code: str) -> str:
    return code if re.fullmatch(r"[A-Za-z0-9_.]{1,64}", code) else "an unknown error"


_Row = tuple[type[KeystayError], str, str, str, str]

_FATAL: dict[str, _Row] = {
    "NotFoundException": (
        KeyNotFoundError,
        "AWS KMS has no key {key} ({where}).",
        "Keys and aliases belong to one region and account; another is asked.",
        "Check region=, profile= and the name: keystay key list 'awskms:///*?region=…'",
        "key-not-found",
    ),
    "InvalidArnException": (
        KeyNotFoundError,
        "AWS KMS does not take {key} ({where}).",
        "The ARN is of another region than the one that is asked, or mistyped.",
        "Compare it with `aws kms describe-key`.",
        "key-not-found",
    ),
    "DisabledException": (
        KeyUnusableError,
        "The KMS key {key} is disabled.",
        "Somebody disabled it.",
        "aws kms enable-key --key-id {key}",
        "aws-key-disabled",
    ),
    "KMSInvalidStateException": (
        KeyUnusableError,
        "The state of the KMS key {key} does not allow {operation}.",
        "It is being deleted or created, waits for its material, or its key store is gone.",
        "See KeyState in: aws kms describe-key --key-id {key}",
        "aws-key-state",
    ),
    "CustomKeyStoreInvalidStateException": (
        KeyUnusableError,
        "The custom key store of the KMS key {key} does not allow {operation}.",
        "It is disconnected from its CloudHSM cluster or external key manager.",
        "aws kms describe-custom-key-stores; aws kms connect-custom-key-store",
        "aws-key-state",
    ),
    "InvalidKeyUsageException": (
        KeyUnusableError,
        "The KMS key {key} cannot be used for {operation} like this.",
        "Its KeyUsage is not SIGN_VERIFY, or its KeySpec does not fit the algorithm.",
        "See KeyUsage and KeySpec in: aws kms describe-key --key-id {key}",
        "aws-key-usage",
    ),
    "UnsupportedOperationException": (
        KeyUnusableError,
        "AWS KMS cannot do {operation} with {key}.",
        "The key is of another kind, or the region does not offer it.",
        "Use a P-384 or RSA key for SIGN_VERIFY: keystay key generate",
        "aws-key-usage",
    ),
    "InvalidGrantTokenException": (
        KeyUnusableError,
        "AWS KMS refused a grant token for {key}.",
        "It is mistyped, or the grant was retired.",
        "Wait until the grant has spread (minutes), or create it again.",
        "aws-grant-token",
    ),
    "LimitExceededException": (
        BackendError,
        "A quota of AWS KMS stands in the way of {operation} ({where}).",
        "The account has as many keys or aliases in the region as it may.",
        "Look at the quota in Service Quotas, under AWS KMS.",
        "aws-quota",
    ),
    "AlreadyExistsException": (
        KeyUnusableError,
        "{key} exists already ({where}).",
        "Replacing a key that a server knows locks the client out.",
        "Choose another name for the new key.",
        "key-exists",
    ),
}

_LOCAL: tuple[tuple[tuple[type[Exception], ...], type[KeystayError], str, str, str, str], ...] = (
    (
        (sdk.NoRegionError,),
        ConfigurationError,
        "No AWS region is named.",
        "Neither the key URI, [backends.awskms], AWS_REGION nor the profile has one.",
        "Add ?region=eu-west-1 to the key URI.",
        "aws-region-missing",
    ),
    (
        (sdk.InvalidRegionError, sdk.EndpointResolutionError, sdk.UnknownRegionError),
        ConfigurationError,
        "boto3 knows no KMS endpoint for what is configured ({where}).",
        "The region is mistyped, or a variant (FIPS, dual stack) is asked for that it has not.",
        "Check region= and the AWS profile.",
        "aws-region-unknown",
    ),
    (
        (sdk.ProfileNotFound, sdk.ConfigNotFound, sdk.ConfigParseError, sdk.InvalidConfigError),
        ConfigurationError,
        "The AWS profile cannot be used: it is missing, or its file is malformed.",
        "profile= or AWS_PROFILE names one that ~/.aws/config does not define.",
        "aws configure list-profiles",
        "aws-profile-unusable",
    ),
    (
        (sdk.NoCredentialsError, sdk.NoAuthTokenError),
        LoginError,
        "There are no AWS credentials.",
        "boto3 looked at the environment, the profile, web identity, container and instance.",
        "Give the workload a role, or set AWS_PROFILE; check: aws sts get-caller-identity",
        "aws-credentials-missing",
    ),
    (
        (sdk.PartialCredentialsError,),
        LoginError,
        "The AWS credentials are incomplete.",
        "The access key's id is there without its secret, or the other way round.",
        "Set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or neither.",
        "aws-credentials-missing",
    ),
    (
        (
            sdk.CredentialRetrievalError,
            sdk.TokenRetrievalError,
            sdk.SSOError,
            sdk.InfiniteLoopConfigError,
            sdk.MetadataRetrievalError,
        ),
        LoginError,
        "boto3 could not get the AWS credentials.",
        "The SSO session is over, or the role or credential process of the profile fails.",
        "aws sso login, or check: aws sts get-caller-identity",
        "aws-credentials-unavailable",
    ),
    (
        (sdk.SSLError,),
        BackendUnavailableError,
        "The TLS connection to AWS KMS cannot be trusted ({where}).",
        "A proxy that inspects TLS, a missing CA certificate, or a wrong endpoint.",
        "Let AWS_CA_BUNDLE name the CA file of your network; do not switch verification off.",
        "aws-tls",
    ),
    (
        (sdk.ProxyConnectionError, sdk.InvalidProxiesConfigError),
        BackendUnavailableError,
        "The proxy on the way to AWS KMS cannot be reached ({where}).",
        "HTTPS_PROXY is wrong, or the proxy is down.",
        "Correct HTTPS_PROXY, or except KMS from it with NO_PROXY.",
        "aws-unreachable",
    ),
    (
        (sdk.EndpointConnectionError,),
        BackendUnavailableError,
        "AWS KMS cannot be reached ({where}).",
        "No network, no DNS, or a region or endpoint that does not exist.",
        "Check the region, the route (VPC endpoint, security group) and HTTPS_PROXY.",
        "aws-unreachable",
    ),
    (
        LOST,
        BackendUnavailableError,
        "The connection to AWS KMS was lost during {operation} ({where}).",
        "The network, a proxy or the endpoint.",
        "Try again; check the route to KMS.",
        "aws-unreachable",
    ),
)
"""SDK exceptions, class, message, cause, hint, code. The first row that fits counts."""
