# One image for every process of Waybill: `docker run IMAGE api`, `worker`, `migrate`, ...
# Python 3.13: every locked dependency has a wheel for it, and it is maintained until October 2029.
ARG PYTHON_IMAGE=python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/waybill

# Dependencies change less often than the code: a layer of their own. Wheels only, there is no compiler here.
COPY requirements.lock ./
RUN pip --python /opt/waybill/bin/python install --only-binary :all: --require-hashes -r requirements.lock

# The build backend is no dependency at run time: it and what it needs come from the development lock, by hash.
COPY requirements-dev.lock ./
RUN awk '/^[a-z]/ {keep = /^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/} keep' \
      requirements-dev.lock > build.lock \
 && pip install --only-binary :all: --require-hashes -r build.lock
COPY . .
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
 && pip --python /opt/waybill/bin/python install --no-deps dist/waybill-*.whl

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="Waybill" org.opencontainers.image.licenses="MIT"
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin waybill
COPY --from=build /opt/waybill /opt/waybill
ENV PATH=/opt/waybill/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
# No shell in between: SIGTERM reaches the process, which finishes what it has begun.
ENTRYPOINT ["waybill"]
CMD ["--help"]
