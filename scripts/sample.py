"""Text from a language model: what the weights of a run make of a prompt. Needs the run's folder alone.

python scripts/sample.py RUN --prompt "ROMEO:"             # RUN: a name, its first letters, latest, or a path
python scripts/sample.py RUN --temperature 0               # always the likeliest token
"""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--prompt", default="\n", help="beginning of the text (default: a new line)")
    parser.add_argument("--num-tokens", type=int, default=500, help="how many to add (default: 500)")
    parser.add_argument("--temperature", type=float, default=0.8, help="logits are divided by it (default: 0.8)")
    parser.add_argument("--top-k", type=int, help="draw from so many of the likeliest tokens (default: from all)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    parser.add_argument("--checkpoint", default="best", help="best, latest, or another in checkpoints/ (default: best)")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, cuda:1, mps (default: cpu)")
    parser.add_argument("--trust", action="append", default=[], metavar="NAME", help="a package the run may name")
    args = parser.parse_args()
    for name, value, least in (("num-tokens", args.num_tokens, 1), ("temperature", args.temperature, 0)):
        if value < least:
            parser.error(f"--{name} {value}: {least} or more is needed")
    if args.top_k is not None and args.top_k < 1:
        parser.error(f"--top-k {args.top_k}: 1 or more is needed")

    import torch

    from scaffolding.core.errors import UserError
    from scaffolding.core.find import open_run
    from scaffolding.core.state import checkpoint
    from scaffolding.core.state.files import find_checkpoint
    from scaffolding.data.vocabulary import load_tokenizer
    from scaffolding.experiment import PROJECT, Experiment
    from scaffolding.model.transformer import generate

    try:
        path = open_run(args.run, PROJECT.output_root)
        exp = Experiment.from_path(path, args.checkpoint, args.device, trust=args.trust)
        kept = checkpoint.load(find_checkpoint(path, args.checkpoint))["objects"].get("datasets.train", {})
        if "tokenizer" not in kept:
            parser.error(f"{path.name} was not trained on text: its model is a {type(exp.model).__name__}")
        tokenizer = load_tokenizer(kept["tokenizer"])
        prompt = tokenizer.encode(args.prompt).long()
        if not len(prompt):
            parser.error("--prompt: one character or more is needed")
    except UserError as error:
        parser.error(str(error))
    except ValueError as error:
        parser.error(f"--prompt: {error}")
    generator = torch.Generator().manual_seed(args.seed)
    tokens = prompt[None].to(exp.device)
    text = generate(exp.model, tokens, args.num_tokens, args.temperature, args.top_k, generator)[0]
    print(tokenizer.decode(text.tolist()))


if __name__ == "__main__":
    main()
