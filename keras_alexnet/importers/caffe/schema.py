"""The fields of Caffe's messages that matter to an AlexNet, from BVLC/caffe, src/caffe/proto/caffe.proto."""

from keras_alexnet.importers.wire import Field, Span

# Each message: a field's name → its number and kind. Kinds: int, bool, float, str; list[int] for integers that may be
# packed; a tuple for an enum, its names in the order of their numbers; a dict for a message. `Field` and `Span` leave
# for later what is large; the text format has nothing of these kinds that is wanted.
_SHAPE = {"dim": (1, list[int])}
BLOB = {
    "num": (1, int),
    "channels": (2, int),
    "height": (3, int),
    "width": (4, int),
    "data": (5, Field),
    "shape": (7, _SHAPE),
    "double_data": (8, Field),
}
_CONVOLUTION = {
    "num_output": (1, int),
    "bias_term": (2, bool),
    "pad": (3, list[int]),
    "kernel_size": (4, list[int]),
    "group": (5, int),
    "stride": (6, list[int]),
    "pad_h": (9, int),
    "pad_w": (10, int),
    "kernel_h": (11, int),
    "kernel_w": (12, int),
    "stride_h": (13, int),
    "stride_w": (14, int),
    "dilation": (18, list[int]),
}
_POOLING = {
    "pool": (1, ("MAX", "AVE", "STOCHASTIC")),
    "kernel_size": (2, int),
    "stride": (3, int),
    "pad": (4, int),
    "kernel_h": (5, int),
    "kernel_w": (6, int),
    "stride_h": (7, int),
    "stride_w": (8, int),
    "pad_h": (9, int),
    "pad_w": (10, int),
    "global_pooling": (12, bool),
}
_LRN = {
    "local_size": (1, int),
    "alpha": (2, float),
    "beta": (3, float),
    "norm_region": (4, ("ACROSS_CHANNELS", "WITHIN_CHANNEL")),
    "k": (5, float),
}
_INNER_PRODUCT = {"num_output": (1, int), "bias_term": (2, bool), "axis": (5, int), "transpose": (6, bool)}
_DROPOUT = {"dropout_ratio": (1, float)}
_RELU = {"negative_slope": (1, float)}
_INPUT = {"shape": (1, _SHAPE)}
_TRANSFORMATION = {"scale": (1, float), "crop_size": (3, int), "mean_file": (4, str), "mean_value": (5, float)}
# Where the same stood before there was a message for it.
_OLD_TRANSFORMATION = {"scale": (2, float), "mean_file": (3, str), "crop_size": (5, int)}
_LAYER = {
    "name": (1, str),
    "type": (2, str),
    "bottom": (3, str),
    "top": (4, str),
    "blobs": (7, Span),
    "transform_param": (100, _TRANSFORMATION),
    "data_param": (107, _OLD_TRANSFORMATION),
    "image_data_param": (115, _OLD_TRANSFORMATION),
    "window_data_param": (129, _OLD_TRANSFORMATION),
    "convolution_param": (106, _CONVOLUTION),
    "dropout_param": (108, _DROPOUT),
    "inner_product_param": (117, _INNER_PRODUCT),
    "lrn_param": (118, _LRN),
    "pooling_param": (121, _POOLING),
    "relu_param": (123, _RELU),
    "input_param": (143, _INPUT),
}
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
_V1_LAYER = {
    "layer": (1, Span),  # of the layers before V1
    "bottom": (2, str),
    "top": (3, str),
    "name": (4, str),
    "type": (5, tuple(V1_TYPES)),
    "blobs": (6, Span),
    "convolution_param": (10, _CONVOLUTION),
    "dropout_param": (12, _DROPOUT),
    "inner_product_param": (17, _INNER_PRODUCT),
    "lrn_param": (18, _LRN),
    "pooling_param": (19, _POOLING),
    "relu_param": (30, _RELU),
    "transform_param": (36, _TRANSFORMATION),
    "data_param": (11, _OLD_TRANSFORMATION),
    "image_data_param": (15, _OLD_TRANSFORMATION),
    "window_data_param": (20, _OLD_TRANSFORMATION),
}
NET = {
    "name": (1, str),
    "layers": (2, _V1_LAYER),
    "input": (3, str),
    "input_dim": (4, list[int]),
    "input_shape": (8, _SHAPE),
    "layer": (100, _LAYER),
}
