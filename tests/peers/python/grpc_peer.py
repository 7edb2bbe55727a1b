"""gRPC's Python implementation as a server (`serve`) and as a client (`call ADDRESS`): messages are bytes, without a schema."""

import sys
import threading
from concurrent import futures

import grpc

LARGE = b"x" * 3_000_000


class Service(grpc.GenericRpcHandler):
    def service(self, details):
        handlers = {
            "/peer/Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "/peer/Down": grpc.unary_stream_rpc_method_handler(self.down),
            "/peer/Up": grpc.stream_unary_rpc_method_handler(self.up),
            "/peer/Both": grpc.stream_stream_rpc_method_handler(self.both),
            "/peer/UntilCancelled": grpc.stream_stream_rpc_method_handler(self.until_cancelled),
            "/peer/Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "/peer/FailLate": grpc.unary_stream_rpc_method_handler(self.fail_late),
            "/peer/Sleep": grpc.unary_unary_rpc_method_handler(self.sleep),
            "/peer/Cancelled": grpc.unary_unary_rpc_method_handler(lambda request, context: str(self.cancelled.wait(20)).encode()),
        }
        return handlers.get(details.method)

    def __init__(self):
        self.cancelled = threading.Event()

    def unary(self, request, context):
        sent = dict(context.invocation_metadata())
        context.send_initial_metadata((("x-initial", sent.get("x-sent", "")), ("x-hex", sent.get("x-sent-bin", b"").hex())))
        context.set_trailing_metadata((("x-trailing", sent.get("x-sent", "")), ("x-trailing-bin", sent.get("x-sent-bin", b""))))
        return request

    def down(self, request, context):
        for n in range(int(request)):
            yield b"%d" % n

    def up(self, requests, context):
        return b"%d" % sum(len(request) for request in requests)

    def both(self, requests, context):
        for request in requests:
            yield request.upper()

    def until_cancelled(self, requests, context):
        yield next(requests)
        while context.is_active():
            threading.Event().wait(0.05)
        self.cancelled.set()

    def fail(self, request, context):
        context.abort_with_status(Status(grpc.StatusCode.FAILED_PRECONDITION, "no: é %", (("x-why", "because"),)))

    def fail_late(self, request, context):
        yield b"first"
        context.abort(grpc.StatusCode.DATA_LOSS, "lost")

    def sleep(self, request, context):
        # What is left of the client's time, as it arrived here.
        left = context.time_remaining()
        threading.Event().wait(5)
        return str(left).encode()


class Status(grpc.Status):
    def __init__(self, code, details, trailing_metadata):
        self.code, self.details, self.trailing_metadata = code, details, trailing_metadata


def serve():
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=16), options=[("grpc.max_receive_message_length", -1)]
    )
    server.add_generic_rpc_handlers((Service(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


def error_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("no error")


def unary(channel):
    answer, call = channel.unary_unary("/peer/Unary").with_call(b"hello", timeout=20)
    assert (answer, call.code()) == (b"hello", grpc.StatusCode.OK), (answer, call)


def metadata(channel):
    sent = (("x-sent", "value"), ("x-sent-bin", b"\0\xff\x01"))
    _, call = channel.unary_unary("/peer/Unary").with_call(b"", metadata=sent, timeout=20)
    initial, trailing = dict(call.initial_metadata()), dict(call.trailing_metadata())
    assert (initial["x-initial"], initial["x-hex"]) == ("value", "00ff01"), initial
    assert (trailing["x-trailing"], trailing["x-trailing-bin"]) == ("value", b"\0\xff\x01"), trailing


def large_messages(channel):
    assert channel.unary_unary("/peer/Unary")(LARGE, timeout=60) == LARGE
    assert channel.stream_unary("/peer/Up")(iter([LARGE] * 3), timeout=60) == b"%d" % (3 * len(LARGE))


def empty_message(channel):
    assert channel.unary_unary("/peer/Unary")(b"", timeout=20) == b""


def streams(channel):
    assert list(channel.unary_stream("/peer/Down")(b"1000", timeout=20)) == [b"%d" % n for n in range(1000)]
    assert list(channel.unary_stream("/peer/Down")(b"0", timeout=20)) == []
    assert channel.stream_unary("/peer/Up")(iter([b"ab"] * 500), timeout=20) == b"1000"


def both_ways(channel):
    sent, go = [b"a", b"b", b"c"], threading.Semaphore(1)

    def requests():
        for one in sent:
            go.acquire()
            yield one

    # Each answer comes before the next request is made.
    answers = []
    for answer in channel.stream_stream("/peer/Both")(requests(), timeout=20):
        answers.append(answer)
        go.release()
    assert answers == [b"A", b"B", b"C"], answers


def trailers_only_error(channel):
    error = error_of(lambda: channel.unary_unary("/peer/Fail")(b"", timeout=20))
    assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "no: é %"), error
    assert dict(error.trailing_metadata()).get("x-why") == "because", error


def error_behind_messages(channel):
    got = []
    error = error_of(lambda: got.extend(channel.unary_stream("/peer/FailLate")(b"", timeout=20)))
    assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "lost"), error


def unknown_method(channel):
    error = error_of(lambda: channel.unary_unary("/peer/Nothing")(b"", timeout=20))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error


def deadline(channel):
    error = error_of(lambda: channel.unary_unary("/peer/Sleep")(b"", timeout=0.5))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
    left = float(channel.unary_unary("/peer/Sleep")(b"", timeout=30))
    assert 20 < left < 31, left


def cancellation(channel):
    go = threading.Event()

    def requests():
        yield b"a"
        go.wait(20)

    call = channel.stream_stream("/peer/UntilCancelled")(requests())
    assert next(call) == b"a"
    call.cancel()
    go.set()
    assert call.code() == grpc.StatusCode.CANCELLED, call
    assert channel.unary_unary("/peer/Cancelled")(b"", timeout=30) == b"True", "the server was not told"


def many_at_once(channel):
    calls = [channel.unary_unary("/peer/Unary").future(b"%d" % n, timeout=60) for n in range(300)]
    assert [call.result() for call in calls] == [b"%d" % n for n in range(300)]


CASES = [
    unary, metadata, large_messages, empty_message, streams, both_ways, trailers_only_error, error_behind_messages,
    unknown_method, deadline, cancellation, many_at_once,
]  # fmt: skip


def call(address):
    channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])
    for case in CASES:
        # Where one fails, it ends the program: this line says which.
        print(case.__name__, flush=True)
        case(channel)
    print(f"{len(CASES)} passed")


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        call(sys.argv[2])
