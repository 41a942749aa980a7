"""What the prefix cache saves over HTTP: time to the first token, the second request beside the
first one with the same system prompt."""

import json
from itertools import count

from benchmarks.scale_result import Prefix
from benchmarks.serve_client import ask, build_body
from benchmarks.serve_prompts import write_prompts
from benchmarks.serve_server import start_server
from benchmarks.serve_subjects import MODEL, NAME, OURS_FP32, OURS_INT8, Peers, build_subjects
from benchmarks.serve_wire import read_answer
from evoserve.tokenizer import Tokenizer, load_tokenizer

NUM_SYSTEM_TOKENS, NUM_TOKENS = 500, 4
QUESTIONS = ("What is the first note about?", "Name one claim that is false.")
_SERVERS = {"float32": OURS_FP32, "int8": OURS_INT8}


async def measure_prefix(form: str, num_prompts: int) -> Prefix:
    """One server process; each system prompt is sent twice, with another question each time."""
    subject = build_subjects(Peers(None, None, MODEL), [_SERVERS[form]])[0]
    tokenizer = load_tokenizer(MODEL)
    found: Prefix = {"num_system_tokens": [], "first_s": [], "second_s": []}
    async with start_server(subject, build_body(NAME, "Good morning.", 1)) as server:
        for number in range(-1, num_prompts):  # the first one warms the server up
            system = write_system(tokenizer, f"{form} {number}")
            times = []
            for question in QUESTIONS:
                raw = await ask(server.port, build_request(system, question))
                times.append(read_answer(*raw).first_token_s)
            if number >= 0:
                found["num_system_tokens"].append(len(tokenizer.encode(system)))
                found["first_s"].append(times[0])
                found["second_s"].append(times[1])
    return found


def write_system(tokenizer: Tokenizer, seed: str) -> str:
    """A text of NUM_SYSTEM_TOKENS tokens or a few less, of its own from its first words on."""
    words: list[str] = []
    for number in count():
        words += write_prompts("main", f"system {seed} {number}", 1)[0].split()
        if len(tokenizer.encode(" ".join(words))) >= NUM_SYSTEM_TOKENS:
            break
    while len(tokenizer.encode(" ".join(words))) > NUM_SYSTEM_TOKENS:
        words.pop()
    return " ".join(words)


def build_request(system: str, question: str) -> bytes:
    """A streamed greedy chat request with a system prompt, head and body."""
    plain = build_body(NAME, question, NUM_TOKENS)
    head, _, body = plain.partition(b"\r\n\r\n")
    fields = json.loads(body)
    fields["messages"].insert(0, {"role": "system", "content": system})
    longer = json.dumps(fields).encode()
    old, new = (f"Content-Length: {len(each)}".encode() for each in (body, longer))
    return head.replace(old, new) + b"\r\n\r\n" + longer
