"""Deliveries signed as MLflow signs them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
import uuid


def signed(body: bytes, secret: str, *, at: float | None = None) -> dict[str, str]:
    """The headers of a delivery."""
    delivery, timestamp = str(uuid.uuid4()), str(int(at if at is not None else time.time()))
    content = f"{delivery}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.new(secret.encode(), content, hashlib.sha256).digest()).decode()
    return {
        "x-mlflow-delivery-id": delivery, "x-mlflow-timestamp": timestamp, "x-mlflow-signature": f"v1,{signature}",
        "content-type": "application/json",
    }  # fmt: skip
