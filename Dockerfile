# An image with the package, its recipes and the commands of keras_alexnet.
#   docker build -t keras_alexnet .                                    CPU
#   docker build -t keras_alexnet:gpu --build-arg EXTRAS=gpu,report .  TensorFlow + CUDA; jax-gpu,report for JAX + CUDA
#   docker run --rm keras_alexnet fit --help
# Not yet built: its steps are tested as shell commands.
ARG PYTHON=3.13
FROM python:${PYTHON}-slim
ARG EXTRAS=report
WORKDIR /app
COPY constraints.txt LICENSE README.md pyproject.toml ./
COPY flags flags
COPY keras_alexnet keras_alexnet
RUN pip install --no-cache-dir --constraint constraints.txt ".[${EXTRAS}]" && rm -r /app/*
WORKDIR /work
ENTRYPOINT ["keras-alexnet"]
