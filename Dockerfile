# Serves vectors without PyTorch: `docker build -t cde .`, then
# docker run -p 8000:8000 -e CDE_API_KEYS=secret -v ./contexts:/contexts cde
# /contexts holds files of contexts; callers may fit others, which are kept there.

FROM python:3.13-slim AS export
ARG MODEL=cde-minilm-l6-v2
WORKDIR /source
COPY pyproject.toml README.md ./
COPY cde_retriever cde_retriever
COPY cde_train cde_train
RUN pip install --no-cache-dir uv==0.9.11 \
    && uv pip install --system --no-cache --torch-backend cpu ".[onnx]" \
    && cde export "$MODEL" -o /model --dtype int8

FROM python:3.13-slim
COPY --from=export /source /source
COPY --from=export /model /model
RUN pip install --no-cache-dir --no-deps /source \
    && pip install --no-cache-dir "fastapi>=0.165" "filelock>=3.16" "limits>=5" "numpy>=1.26" "onnxruntime>=1.23" \
        "prometheus-client>=0.22" "regex>=2024.9.11" "safetensors>=0.5" "scipy>=1.14.1" "snowballstemmer>=3.0" \
        "stopwordsiso>=0.7" "tokenizers>=0.22" "tqdm>=4.66" "uvicorn>=0.38" \
    && useradd --uid 10001 --create-home cde \
    && mkdir /contexts \
    && chown cde /contexts
USER 10001
EXPOSE 8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["cde", "serve", "--model", "/model", "--store", "/contexts", "--host", "0.0.0.0"]
