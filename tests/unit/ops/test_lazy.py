import subprocess
import sys


def test_importing_ops_and_an_algorithm_imports_no_torch():
    code = (
        "import sys, posttrain.ops, posttrain.algorithms.grpo, posttrain.algorithms.sft, "
        "posttrain.averaging.linear, posttrain.rewards.gsm8k; "
        "print(sorted({'torch', 'transformers', 'ray', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
