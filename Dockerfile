# plywire, one image for every container: the installed package and nothing to build it with.
#
# BASE_IMAGE: any image with python3 (3.11 or later) and its venv module. When it has Node.js, and the sources have
# the npm packages of services/ip_js, that runs, too. deploy/wheels/: wheels of what plywire needs and of setuptools, for
# a build without internet; when there are none, pip gets them.
ARG BASE_IMAGE=python:3.13-slim

FROM ${BASE_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /build && python3 -m venv --without-pip /opt/plywire
WORKDIR /opt/plywire/src
COPY deploy/wheels/ /wheels/
COPY constraints.txt pyproject.toml ./
# What changes seldom comes first, so that an edit of plywire rebuilds in seconds.
RUN if ls /wheels/*.whl >/dev/null 2>&1; \
    then printf '[global]\nno-index = true\nfind-links = /wheels\n' >/etc/pip.conf; fi \
 && python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" >/needed.txt \
 && /build/bin/pip install --quiet 'setuptools>=70.1' \
 && /build/bin/pip --python /opt/plywire/bin/python install --quiet -c constraints.txt -r /needed.txt
COPY README.md ./
COPY services/ services/
COPY plywire/ plywire/
# Editable: `docker compose watch` puts an edited layer in place and restarts its containers.
RUN /build/bin/pip wheel --quiet --no-deps --no-build-isolation -w /dist . \
 && /build/bin/pip --python /opt/plywire/bin/python install --quiet --no-deps --no-index /dist/*.whl \
 && rm -rf /opt/plywire/lib/python3*/site-packages/plywire /opt/plywire/lib/python3*/site-packages/services build *.egg-info \
 && echo /opt/plywire/src >"$(echo /opt/plywire/lib/python3*/site-packages)/plywire.pth" \
 && /opt/plywire/bin/python -m compileall -q services plywire

FROM ${BASE_IMAGE}
COPY --from=build /opt/plywire /opt/plywire
COPY --from=build --chown=65534:65534 /opt/plywire/src /opt/plywire/src
COPY examples/ /opt/plywire/examples/
COPY docs/ /opt/plywire/docs/
COPY deploy/lab.toml /etc/plywire/lab.toml
COPY deploy/*.py /opt/plywire/deploy/
ENV PATH=/opt/plywire/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 LANG=C.UTF-8
WORKDIR /opt/plywire
USER 65534
CMD ["plywire", "--help"]
