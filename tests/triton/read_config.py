"""Reads configurations as Triton does, in a Python that has Triton's client; prints them as a list of JSON.

python read_config.py config.pbtxt ...
"""

import json
import sys
from pathlib import Path

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2


def read(file):
    config = text_format.Parse(Path(file).read_text(), model_config_pb2.ModelConfig())
    return json_format.MessageToDict(config, preserving_proto_field_name=True)


print(json.dumps([read(file) for file in sys.argv[1:]]))
