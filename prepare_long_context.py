from longrepo.commands.app import run_alone
from longrepo.commands.prepare import prepare

run_alone(prepare)
