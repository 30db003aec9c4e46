"""The local stack: a Prefect server, an MLflow server, Envoy and a Prefect worker under supervisord."""

from headgate.stack.ports import Ports
from headgate.stack.supervisor import Program, ProgramState, Supervisor

__all__ = ["Ports", "Program", "ProgramState", "Supervisor"]
