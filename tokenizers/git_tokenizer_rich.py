from longrepo.commands.app import run_alone
from longrepo.commands.tokenize import tokenize

run_alone(tokenize)
