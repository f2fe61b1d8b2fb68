"""The messages of BVLC/caffe, src/caffe/proto/caffe.proto, with the fields and defaults that matter to an AlexNet.

Blobs are not among the fields of layers, nor numbers among those of blobs: `protobuf.split` takes them out first.
"""

from keras_alexnet.importers.protobuf import message_types

# The types of V1 layers in the order of their numbers, and what they are called today.
_V1_TYPE_PAIRS = """
    NONE:None ACCURACY:Accuracy BNLL:BNLL CONCAT:Concat CONVOLUTION:Convolution DATA:Data DROPOUT:Dropout
    EUCLIDEAN_LOSS:EuclideanLoss FLATTEN:Flatten HDF5_DATA:HDF5Data HDF5_OUTPUT:HDF5Output IM2COL:Im2col
    IMAGE_DATA:ImageData INFOGAIN_LOSS:InfogainLoss INNER_PRODUCT:InnerProduct LRN:LRN
    MULTINOMIAL_LOGISTIC_LOSS:MultinomialLogisticLoss POOLING:Pooling RELU:ReLU SIGMOID:Sigmoid SOFTMAX:Softmax
    SOFTMAX_LOSS:SoftmaxWithLoss SPLIT:Split TANH:TanH WINDOW_DATA:WindowData ELTWISE:Eltwise POWER:Power
    SIGMOID_CROSS_ENTROPY_LOSS:SigmoidCrossEntropyLoss HINGE_LOSS:HingeLoss MEMORY_DATA:MemoryData ARGMAX:ArgMax
    THRESHOLD:Threshold DUMMY_DATA:DummyData SLICE:Slice MVN:MVN ABSVAL:AbsVal SILENCE:Silence
    CONTRASTIVE_LOSS:ContrastiveLoss EXP:Exp DECONVOLUTION:Deconvolution
"""
V1_TYPES = dict(pair.split(":") for pair in _V1_TYPE_PAIRS.split())

_ENUMS = {
    "V1LayerType": tuple(V1_TYPES),
    "PoolMethod": ("MAX", "AVE", "STOCHASTIC"),
    "RoundMode": ("CEIL", "FLOOR"),
    "NormRegion": ("ACROSS_CHANNELS", "WITHIN_CHANNEL"),
}
_MESSAGES = {
    "NetParameter": {
        "name": (1, "bytes"),
        "layers": (2, "repeated V1LayerParameter"),
        "input": (3, "repeated bytes"),
        "input_dim": (4, "repeated int32"),
        "input_shape": (8, "repeated BlobShape"),
        "layer": (100, "repeated LayerParameter"),
    },
    "LayerParameter": {
        "name": (1, "bytes"),
        "type": (2, "bytes"),
        "bottom": (3, "repeated bytes"),
        "top": (4, "repeated bytes"),
        "transform_param": (100, "TransformationParameter"),
        "convolution_param": (106, "ConvolutionParameter"),
        "data_param": (107, "DataParameter"),
        "dropout_param": (108, "DropoutParameter"),
        "image_data_param": (115, "DataParameter"),
        "inner_product_param": (117, "InnerProductParameter"),
        "lrn_param": (118, "LRNParameter"),
        "pooling_param": (121, "PoolingParameter"),
        "relu_param": (123, "ReLUParameter"),
        "window_data_param": (129, "DataParameter"),
        "input_param": (143, "InputParameter"),
    },
    "V1LayerParameter": {
        "layer": (1, "V0LayerParameter"),
        "bottom": (2, "repeated bytes"),
        "top": (3, "repeated bytes"),
        "name": (4, "bytes"),
        "type": (5, "V1LayerType"),
        "convolution_param": (10, "ConvolutionParameter"),
        "data_param": (11, "DataParameter"),
        "dropout_param": (12, "DropoutParameter"),
        "image_data_param": (15, "DataParameter"),
        "inner_product_param": (17, "InnerProductParameter"),
        "lrn_param": (18, "LRNParameter"),
        "pooling_param": (19, "PoolingParameter"),
        "window_data_param": (20, "DataParameter"),
        "relu_param": (30, "ReLUParameter"),
        "transform_param": (36, "TransformationParameter"),
    },
    "V0LayerParameter": {},
    "BlobShape": {"dim": (1, "repeated int64")},
    "BlobProto": {
        "num": (1, "int32"),
        "channels": (2, "int32"),
        "height": (3, "int32"),
        "width": (4, "int32"),
        "shape": (7, "BlobShape"),
        # Of NVIDIA's Caffe, which stores the numbers as bytes of this type.
        "raw_data_type": (10, "int32"),
    },
    "ConvolutionParameter": {
        "num_output": (1, "uint32"),
        "bias_term": (2, "bool", "true"),
        "pad": (3, "repeated uint32"),
        "kernel_size": (4, "repeated uint32"),
        "group": (5, "uint32", 1),
        "stride": (6, "repeated uint32"),
        "pad_h": (9, "uint32"),
        "pad_w": (10, "uint32"),
        "kernel_h": (11, "uint32"),
        "kernel_w": (12, "uint32"),
        "stride_h": (13, "uint32"),
        "stride_w": (14, "uint32"),
        "dilation": (18, "repeated uint32"),
    },
    "PoolingParameter": {
        "pool": (1, "PoolMethod"),
        "kernel_size": (2, "uint32"),
        "stride": (3, "uint32", 1),
        "pad": (4, "uint32"),
        "kernel_h": (5, "uint32"),
        "kernel_w": (6, "uint32"),
        "stride_h": (7, "uint32"),
        "stride_w": (8, "uint32"),
        "pad_h": (9, "uint32"),
        "pad_w": (10, "uint32"),
        "global_pooling": (12, "bool"),
        "round_mode": (13, "RoundMode"),
    },
    "LRNParameter": {
        "local_size": (1, "uint32", 5),
        "alpha": (2, "float", 1),
        "beta": (3, "float", 0.75),
        "norm_region": (4, "NormRegion"),
        "k": (5, "float", 1),
    },
    "InnerProductParameter": {
        "num_output": (1, "uint32"),
        "bias_term": (2, "bool", "true"),
        "axis": (5, "int32", 1),
        "transpose": (6, "bool"),
    },
    "DropoutParameter": {"dropout_ratio": (1, "float", 0.5)},
    "ReLUParameter": {"negative_slope": (1, "float")},
    "InputParameter": {"shape": (1, "repeated BlobShape")},
    "TransformationParameter": {
        "scale": (1, "float", 1),
        "crop_size": (3, "uint32"),
        "mean_file": (4, "bytes"),
        "mean_value": (5, "repeated float"),
    },
    # Of Data, ImageData and WindowData, before there was TransformationParameter.
    "DataParameter": {"scale": (2, "float", 1), "mean_file": (3, "bytes"), "crop_size": (5, "uint32")},
}

_types = message_types(_MESSAGES, _ENUMS)
NetParameter, LayerParameter, V1LayerParameter, BlobProto = (
    _types[name] for name in ("NetParameter", "LayerParameter", "V1LayerParameter", "BlobProto")
)

# The numbers of the fields that are taken out of a net, of a layer of each kind, and of a blob.
LAYERS = {100: LayerParameter, 2: V1LayerParameter}
BLOBS = {LayerParameter: 7, V1LayerParameter: 6}
DATA, DIFF, DOUBLE_DATA, DOUBLE_DIFF, RAW_DATA, RAW_DIFF = 5, 6, 8, 9, 12, 13
