"""Serialised tf.train.Examples, read without TensorFlow."""


def example_features(record: bytes) -> list[str]:
    """The names of the features of what may be a serialised tf.train.Example; none if it is not."""
    # Features and its first entry, each behind a size
    if record[:1] != b"\n" or b"\n" not in record[1:12]:
        return []
    from tensorflow_datasets.proto import tf_example_pb2 as proto  # here: a slow import

    try:
        example = proto.Example.FromString(record)  # type: ignore
    except Exception:  # the protobuf runtime in use decides the type
        return []
    return sorted(example.features.feature) if example.SerializeToString() else []


def example_feature(record: bytes, field: str, where: str) -> bytes:
    """The one bytes value of a feature of a serialised tf.train.Example."""
    from tensorflow_datasets.proto import tf_example_pb2 as proto  # here: a slow import

    try:
        features = proto.Example.FromString(record).features.feature  # type: ignore
    except Exception as error:  # the protobuf runtime in use decides the type
        raise ValueError(
            f"{where} is not a tf.train.Example: {error}; use field=None if a record is the "
            "text itself"
        ) from error
    if field not in features or len(features[field].bytes_list.value) != 1:
        raise ValueError(
            f"{where} has no single text in feature {field!r}; its features are {sorted(features)}"
        )
    return features[field].bytes_list.value[0]
