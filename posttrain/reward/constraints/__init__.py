"""The 25 verifiable constraints of IFEval: by the benchmark's rules, and by those of Tülu 3."""
