# mlens on CUDA. As an example, 8 GPUs, with caches and runs in volumes:
#   docker build -t mlens .
#   docker run --gpus all --shm-size=1g -v mlens-cache:/cache -v mlens-runs:/mlens/outputs mlens \
#     torchrun --nproc_per_node=8 train.py model=qwen3_0_6b data=ml_1m
# Tried: `pip install .` and runs on a CPU, without a container. Not tried: building this image, running it, and CUDA.

# Torch 2.13 is built for CUDA 13.0. DeepSpeed looks for an nvcc of the same version, hence the `devel` image.
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04

# Triton compiles with a C compiler and Python's headers, DeepSpeed's offloaded optimizer with a C++ compiler.
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ gcc ninja-build python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home mlens && python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH CUDA_HOME=/usr/local/cuda MLENS_CACHE=/cache/mlens HF_HOME=/cache/huggingface

WORKDIR /mlens
COPY . .
RUN pip install --no-cache-dir . \
 && mkdir -p /cache outputs multirun && chown -R mlens /cache outputs multirun
USER mlens
CMD ["python", "train.py", "--help"]
