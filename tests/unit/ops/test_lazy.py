import subprocess
import sys

from posttrain.config.plugins import shipped


def test_importing_ops_and_any_algorithm_imports_no_torch():
    algorithms = [f"posttrain.algorithms.{name}" for name in shipped("algorithm")]
    code = (
        f"import sys, posttrain.ops, {', '.join(algorithms)}, "
        "posttrain.averaging.linear, posttrain.rewards.gsm8k; "
        "print(sorted({'torch', 'transformers', 'ray', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
