"""A minimal Pagewise client: sends one chat message and prints the answer as it streams.

    python3 -m pip install -r examples/python/requirements.txt
    python3 examples/python/generate.py "Why is the sky blue?"

It knows only the wire protocol, which it reads from proto/ when it starts.
"""

import argparse
import os
import pathlib
import sys

import grpc

PROTO_FOLDER = pathlib.Path(__file__).resolve().parents[2] / "proto"


def load_protocol():
    """The message and service modules of the protocol; grpcio-tools compiles them in memory."""
    sys.path.insert(0, str(PROTO_FOLDER))
    return grpc.protos_and_services("pagewise/v1/inference.proto")


def parse_arguments():
    parser = argparse.ArgumentParser(description="Stream an answer from a Pagewise server.")
    parser.add_argument("prompt", nargs="?", default="Why is the sky blue?")
    parser.add_argument("--address", default="127.0.0.1:50051", help="host:port of the server (default: %(default)s)")
    parser.add_argument("--system", help="system message to put first")
    parser.add_argument("--max-tokens", type=int, default=256, help="most tokens to generate (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.7, help="0 is greedy (default: %(default)s)")
    parser.add_argument("--timeout", type=float, help="seconds after which the server ends the answer (default: none)")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    messages, services = load_protocol()

    turns = [messages.ChatMessage(role="user", content=arguments.prompt)]
    if arguments.system:
        turns.insert(0, messages.ChatMessage(role="system", content=arguments.system))
    request = messages.GenerateRequest(
        chat=messages.Chat(messages=turns),
        sampling=messages.SamplingParams(temperature=arguments.temperature, max_tokens=arguments.max_tokens),
    )

    with grpc.insecure_channel(arguments.address) as channel:
        responses = services.InferenceStub(channel).Generate(request, timeout=arguments.timeout)
        for response in responses:
            event = response.WhichOneof("event")
            if event == "delta":
                print(response.delta.text, end="", flush=True)
            elif event == "finished":
                usage = response.finished.usage
                reason = messages.FinishReason.Name(response.finished.finish_reason)
                print(
                    f"\n[{reason}: {usage.prompt_tokens} prompt tokens, {usage.cached_tokens} of them cached, "
                    f"{usage.output_tokens} output tokens]"
                )


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as error:
        sys.exit(f"\n{error.code().name}: {error.details()}")
    except KeyboardInterrupt:
        sys.exit(130)  # Leaving cancels the call, and the server frees its blocks.
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Whoever read the answer has enough of it.
